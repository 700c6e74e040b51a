// soft_dirty_tracker.h — the kernel marks each page that is written (soft-dirty bits): for kernels before 6.7.
#ifndef INCR_CKPT_TRACKER_SOFT_DIRTY_TRACKER_H_
#define INCR_CKPT_TRACKER_SOFT_DIRTY_TRACKER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "process/features.h"
#include "tracker/write_tracker.h"

namespace incr {

// The bits work here, and we are shown page frame numbers, without which they cannot be trusted
// (entry_comparer.h).
Feature ProbeSoftDirtyTracker();

absl::StatusOr<std::unique_ptr<WriteTracker>> NewSoftDirtyTracker(const ProcessHandle* process);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_SOFT_DIRTY_TRACKER_H_
