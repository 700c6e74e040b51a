// unsupported.h — what a process may have that no restore brings back yet.
#ifndef INCR_CKPT_CHECKPOINT_UNSUPPORTED_H_
#define INCR_CKPT_CHECKPOINT_UNSUPPORTED_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "process/process_handle.h"
#include "process/thread_state.h"
#include "proto/image.pb.h"

namespace incr {

// The value of a field of /proc/<pid>/status, "" if this kernel has no such.
std::string StatusField(absl::string_view status_text, absl::string_view name);

// kUnimplemented names all that is found: children, POSIX timers, seccomp, foreign namespaces, a
// shadow stack, SCHED_DEADLINE. With `allow_unsupported` each becomes a warning of the image;
// capabilities and groups other than ours always do.
absl::Status RefuseUnsupported(const ProcessHandle& target, const FrozenState& state,
                               const ProcessFacts& facts, absl::string_view status_text,
                               bool allow_unsupported, pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_UNSUPPORTED_H_
