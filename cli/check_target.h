// check_target.h — may this process be tracked?
#ifndef INCR_CKPT_CLI_CHECK_TARGET_H_
#define INCR_CKPT_CLI_CHECK_TARGET_H_

#include "absl/status/status.h"
#include "process/process_handle.h"

namespace incr {

// CheckTrackable, but a process that may not be is a refusal (kFailedPrecondition), as the
// request itself was well formed.
inline absl::Status CheckTarget(const ProcessHandle& process) {
  const absl::Status status = CheckTrackable(process);
  if (absl::IsInvalidArgument(status)) return absl::FailedPreconditionError(status.message());
  return status;
}

}  // namespace incr

#endif  // INCR_CKPT_CLI_CHECK_TARGET_H_
