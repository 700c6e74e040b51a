// uffd_wp_tracker.h — a thread of ours is told of the first write to each page (Linux 5.13).
//
// For kernels without WP_ASYNC. Each first write costs the target some 10 us, since it waits for us; and if
// this process is stopped (SIGSTOP, a debugger, a frozen cgroup), a target that writes waits until it goes
// on. If it dies the target runs on.
#ifndef INCR_CKPT_TRACKER_UFFD_WP_TRACKER_H_
#define INCR_CKPT_TRACKER_UFFD_WP_TRACKER_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "process/process_handle.h"
#include "tracker/write_tracker.h"

namespace incr {

// The target's userfaultfd is created with these.
extern const uint64_t kUffdWpFeatures;

absl::StatusOr<std::unique_ptr<WriteTracker>> NewUffdWpTracker(const ProcessHandle* process,
                                                               ScopedFd uffd);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_UFFD_WP_TRACKER_H_
