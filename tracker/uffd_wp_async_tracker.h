// uffd_wp_async_tracker.h — the kernel notes the first write to each page by itself (Linux 6.7).
#ifndef INCR_CKPT_TRACKER_UFFD_WP_ASYNC_TRACKER_H_
#define INCR_CKPT_TRACKER_UFFD_WP_ASYNC_TRACKER_H_

#include <memory>

#include "tracker/private_scan.h"
#include "tracker/write_tracker.h"

namespace incr {

// The target's userfaultfd is created with these.
extern const uint64_t kUffdWpAsyncFeatures;

// What differs between kernels. Found by use, in this process; about 1 ms.
UffdTrackerTraits ProbeUffdTrackerTraits();

// Tests run every kernel's way.
absl::StatusOr<std::unique_ptr<WriteTracker>> NewUffdWpAsyncTracker(
    const ProcessHandle* process, ScopedFd uffd, const UffdTrackerTraits& traits);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_UFFD_WP_ASYNC_TRACKER_H_
