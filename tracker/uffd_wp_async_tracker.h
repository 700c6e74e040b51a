// uffd_wp_async_tracker.h — what differs between kernels for this back end.
#ifndef INCR_CKPT_TRACKER_UFFD_WP_ASYNC_TRACKER_H_
#define INCR_CKPT_TRACKER_UFFD_WP_ASYNC_TRACKER_H_

#include <memory>

#include "tracker/private_scan.h"
#include "tracker/write_tracker.h"

namespace incr {

// Found by use, in this process; about 1 ms.
UffdTrackerTraits ProbeUffdTrackerTraits();

// Tests run every kernel's way.
absl::StatusOr<std::unique_ptr<WriteTracker>> NewUffdWpAsyncTracker(
    const ProcessHandle* process, ScopedFd uffd, const UffdTrackerTraits& traits);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_UFFD_WP_ASYNC_TRACKER_H_
