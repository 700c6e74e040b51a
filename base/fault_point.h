// fault_point.h — named places where a test can make the shipped binary fail.
//
// INCR_CKPT_FAULTS="store.before_head=kill,pack.write=error:3" in the environment
// arms points: `kill` raises SIGKILL there, `error` makes the point return an
// error, `sleep` waits 200 ms; ":N" acts on the Nth passage only (default: every one).
// A point costs one load when nothing is armed. Thread-safe.
#ifndef INCR_CKPT_BASE_FAULT_POINT_H_
#define INCR_CKPT_BASE_FAULT_POINT_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace incr {

// OK unless `name` is armed with `error`.
absl::Status FaultPoint(absl::string_view name);

// Replaces what is armed (tests). Same syntax as the environment variable; "" disarms.
void ArmFaultPoints(absl::string_view specification);

}  // namespace incr

#endif  // INCR_CKPT_BASE_FAULT_POINT_H_
