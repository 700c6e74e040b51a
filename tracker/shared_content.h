// shared_content.h — the pages of shared writable memory, read from the object behind the mapping.
//
// Others may write such memory unseen by this process's page tables, so its content is all there
// is to go by. It is read from the object (map_files), not through the process: that
// leaves holes unpopulated and sees pages that this process never touched.
//
// Thread-safe.
#ifndef INCR_CKPT_TRACKER_SHARED_CONTENT_H_
#define INCR_CKPT_TRACKER_SHARED_CONTENT_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "process/remote_memory.h"

namespace incr {

using PageVisitor = absl::FunctionRef<void(uint64_t page, const uint8_t* bytes)>;

// Calls `visit` for every page of `mapping` that has content, by address. Holes, and
// whatever lies beyond the object's end, have none. The target is stopped. Where the object cannot be
// opened the mapping is read through the process, and pages of zeros count as holes.
absl::Status VisitSharedContent(const ProcessHandle& process, const RemoteMemory& memory,
                                const MemoryMapping& mapping, PageVisitor visit);

// The same for every shared writable mapping of `map`.
absl::Status VisitAllSharedContent(const ProcessHandle& process, const RemoteMemory& memory,
                                   const MemoryMap& map, PageVisitor visit);

// Reads `range` through the process in blocks; unreadable pages are passed over.
absl::Status VisitProcessPages(const RemoteMemory& memory, PageRange range, PageVisitor visit);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_SHARED_CONTENT_H_
