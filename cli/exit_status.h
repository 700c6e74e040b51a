// exit_status.h — what incr-ckpt exits with (docs/cli.md).
#ifndef INCR_CKPT_CLI_EXIT_STATUS_H_
#define INCR_CKPT_CLI_EXIT_STATUS_H_

#include "absl/status/status.h"

namespace incr {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotFound = 3;
inline constexpr int kExitRefused = 4;
// Of `run` alone, as env(1), timeout(1) and the shell have it.
inline constexpr int kExitNotTracked = 125;
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNoSuchCommand = 127;

inline int ExitStatusFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:  // a resource that is not supported
      return kExitRefused;
    default:
      return kExitFailed;
  }
}

}  // namespace incr

#endif  // INCR_CKPT_CLI_EXIT_STATUS_H_
