// compare_tracker.h — no kernel help: every page is hashed against the last epoch. The oracle.
#ifndef INCR_CKPT_TRACKER_COMPARE_TRACKER_H_
#define INCR_CKPT_TRACKER_COMPARE_TRACKER_H_

#include <memory>

#include "tracker/write_tracker.h"

namespace incr {

absl::StatusOr<std::unique_ptr<WriteTracker>> NewCompareTracker(const ProcessHandle* process);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_COMPARE_TRACKER_H_
