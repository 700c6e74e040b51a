// unsupported.h — what a process may have that no restore brings back yet.
#ifndef INCR_CKPT_CHECKPOINT_UNSUPPORTED_H_
#define INCR_CKPT_CHECKPOINT_UNSUPPORTED_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "process/process_handle.h"
#include "process/thread_state.h"
#include "proto/image.pb.h"

namespace incr {

// The value of a field of /proc/<pid>/status, "" if this kernel has no such.
std::string StatusField(absl::string_view status_text, absl::string_view name);

// What a process has for long: seccomp, foreign namespaces, a shadow stack. Capabilities and groups
// other than ours become a warning of the image.
absl::Status FindLastingUnsupported(const ProcessHandle& target, const ProcessFacts& facts,
                                    absl::string_view status_text, pb::Image* image,
                                    std::vector<std::string>* found);

// Threads that differ from the leader in what the image holds once for the process: credentials,
// seccomp filters, descriptor table, working directory.
absl::Status FindThreadsApart(const ProcessHandle& target, absl::string_view leader_status_text,
                              std::vector<std::string>* found);

// What it may have at one moment and not at the next: children, POSIX timers, SCHED_DEADLINE.
absl::Status FindMomentaryUnsupported(const ProcessHandle& target, const FrozenState& state,
                                      std::vector<std::string>* found);

// kUnimplemented names all that was found; with `allow_unsupported` each is a warning of the image.
absl::Status RefuseUnsupported(const ProcessHandle& target, absl::string_view comm,
                               const std::vector<std::string>& found, bool allow_unsupported,
                               pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_UNSUPPORTED_H_
