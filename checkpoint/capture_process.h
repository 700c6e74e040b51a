// capture_process.h — the non-memory state of a frozen process into the image.
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_PROCESS_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_PROCESS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "process/thread_state.h"
#include "proto/image.pb.h"

namespace incr {

// Threads, signals, timers, limits, layout, identity of exe. Pure but for reading /proc.
// An unsupported resource (children, posix timers, seccomp, a foreign pid
// namespace...) is an error that names it, or with `allow_unsupported` a warning.
absl::Status CaptureProcess(const ProcessHandle& target, const FrozenState& state,
                            bool allow_unsupported, pb::Process* process, pb::Image* image);

// The target was in a job-control stop (FrozenProcess::was_group_stopped): it comes back so,
// by a SIGSTOP that waits for it.
void RecordGroupStop(pb::Process* process);

// Mappings with file identities and memory objects. `flags` are mappings with VmFlags from a
// recent ReadSmaps, matched by range.
absl::Status CaptureMappings(const ProcessHandle& target, const MemoryMap& map,
                             const MemoryMap& flags, bool allow_unsupported,
                             pb::Process* process, pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_PROCESS_H_
