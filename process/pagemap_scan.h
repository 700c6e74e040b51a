// pagemap_scan.h — PAGEMAP_SCAN (Linux 6.7+): which pages of a process are in a
// given state, optionally write-protecting them again in the same step.
//
// SWAPPED means "an entry, but not present": besides swapped pages also migration entries and
// markers without content (uffd-wp on a dropped file page, guard pages); see IsMarker.
//
// Thread-safe. Facts: ../shared/kernel.md 3-7, Documentation/admin-guide/mm/pagemap.rst.
#ifndef INCR_CKPT_PROCESS_PAGEMAP_SCAN_H_
#define INCR_CKPT_PROCESS_PAGEMAP_SCAN_H_

#include <cstdint>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "process/process_handle.h"

namespace incr {

struct ScanQuery {
  uint64_t inverted = 0;   // PAGE_IS_* bits whose meaning is turned round
  uint64_t all_of = 0;     // category_mask
  uint64_t any_of = 0;     // category_anyof_mask
  uint64_t report = 0;     // return_mask
  // Destructive read: re-protects what it reports (PM_SCAN_WP_MATCHING). If the epoch
  // fails later, the caller must put those pages into the next one.
  bool write_protect = false;
  bool first_only = false;  // ends at the first page that it reports
};

// A classic entry that is SWAPPED but has no content. Needs the frame bits, which the
// kernel shows with CAP_SYS_ADMIN only; without them every answer is false.
bool IsMarker(uint64_t pagemap_entry);

class PagemapScanner {
 public:
  static absl::StatusOr<PagemapScanner> Open(const ProcessHandle& process);

  // Calls `found(range, categories)` in address order for runs inside `range`.
  // kNotFound when the target's memory is gone (it exited).
  absl::Status Scan(PageRange range, const ScanQuery& query,
                    absl::FunctionRef<void(PageRange, uint64_t)> found) const;

  // The same, but memory that is gone is empty: for many scans in a row with one CheckAlive() after the
  // last, before anything is believed.
  absl::Status ScanUnchecked(PageRange range, const ScanQuery& query,
                             absl::FunctionRef<void(PageRange, uint64_t)> found) const;

  // The classic entries, 8 bytes a page (kPagemap* in kernel_abi.h): works on every kernel.
  // `entries` holds range.count. kOutOfRange when the target's memory is gone.
  absl::Status ReadEntries(PageRange range, uint64_t* entries) const;

  // kNotFound when the target's memory is gone.
  absl::Status CheckAlive() const;

  bool can_scan() const { return can_scan_; }  // this kernel has PAGEMAP_SCAN

 private:
  PagemapScanner(ScopedFd fd, bool can_scan) : fd_(std::move(fd)), can_scan_(can_scan) {}
  ScopedFd fd_;
  bool can_scan_;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_PAGEMAP_SCAN_H_
