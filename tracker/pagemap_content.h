// pagemap_content.h — private content of a process as /proc/<pid>/pagemap tells it, which every kernel
// has: for the back ends that must do without PAGEMAP_SCAN's categories.
//
// Where PAGEMAP_SCAN is there it finds what is populated, so that a reservation of terabytes costs
// nothing; else every entry is read: 8 bytes a page, holes included (16 TiB take half a minute).
//
// Thread-safe.
#ifndef INCR_CKPT_TRACKER_PAGEMAP_CONTENT_H_
#define INCR_CKPT_TRACKER_PAGEMAP_CONTENT_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/page_range.h"
#include "process/pagemap_scan.h"

namespace incr {

// Calls `visit(page, entry)` in address order for each page of `range` with content of its own: neither
// empty, nor a marker or guard, nor a page of the file behind the mapping. The zero page counts.
absl::Status VisitPrivateContent(const PagemapScanner& scanner, PageRange range,
                                 absl::FunctionRef<void(uint64_t page, uint64_t entry)> visit);

// Which page an entry shows: the frame or swap slot behind it. The same before and after: the same page has
// stayed. kUnknownPage where frames are hidden (no CAP_SYS_ADMIN). Pure.
inline constexpr uint64_t kUnknownPage = 0;
uint64_t PageIdentity(uint64_t entry);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_PAGEMAP_CONTENT_H_
