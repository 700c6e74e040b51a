// collapse.h — huge pages of another process made whole (MADV_COLLAPSE, Linux 6.1).
// Thread-safe.
#ifndef INCR_CKPT_PROCESS_COLLAPSE_H_
#define INCR_CKPT_PROCESS_COLLAPSE_H_

#include "absl/status/status.h"
#include "process/process_handle.h"
#include "process/remote_addr.h"

namespace incr {

inline constexpr uint64_t kHugePageSize = 2u << 20;  // x86-64

// The kHugePageSize bytes at `at` (aligned) become one huge page, if the kernel can do it now; the target runs.
// About 0.3 ms. Needs CAP_SYS_NICE. Not while a userfaultfd protects one of the pages. kUnimplemented: no such
// call here; kNotFound: the target has exited; anything else: of this place only.
absl::Status CollapseHugePage(const ProcessHandle& process, RemoteAddr at);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_COLLAPSE_H_
