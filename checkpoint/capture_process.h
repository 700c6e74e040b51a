// capture_process.h — the non-memory state of a frozen process into the image.
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_PROCESS_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_PROCESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "process/fd_table.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "process/thread_state.h"
#include "proto/image.pb.h"

namespace incr {

// What a process has for long and changes only by calls of its own: ids, limits, layout, identity of
// exe, attributes, namespaces. Twenty files of /proc, too slow for a freeze: so read before it
// and again after the thaw. If both are the same, they hold for the moment in between.
struct LastingState {
  pb::Image image;  // one process, and warnings
  std::vector<std::string> unsupported;
  FsContext fs;  // the working directory apart: programs change it, and one look in the freeze tells
  // Names and arguments apart: for people only, and some programs change them all the time.
  bool operator==(const LastingState& other) const;
};
// `deleted_files`: a program file that has been deleted or replaced is no error.
absl::StatusOr<LastingState> CaptureLasting(const ProcessHandle& target,
                                            bool deleted_files = false);

// `lasting`, and what is of the moment: threads, signals, timers, children. Pure but for reading /proc.
// An unsupported resource (children, posix timers, seccomp, a foreign pid
// namespace...) is an error that names it, or with `allow_unsupported` a warning.
absl::Status CaptureProcess(const ProcessHandle& target, const FrozenState& state,
                            const LastingState& lasting, bool allow_unsupported,
                            pb::Process* process, pb::Image* image);

// The target was in a job-control stop (FrozenProcess::was_group_stopped): it comes back so,
// by a SIGSTOP that waits for it.
void RecordGroupStop(pb::Process* process);

// Mappings with file identities and memory objects. `flags` are mappings with VmFlags from a
// recent ReadSmaps, matched by range. kAborted: a file that is mapped privately was changed since
// `moment_us` (WallMicros() of the freeze), so that its identity now is not that of the moment.
// `deleted_files`: a private mapping of a file that has been deleted or replaced is no error.
absl::Status CaptureMappings(const ProcessHandle& target, const MemoryMap& map,
                             const MemoryMap& flags, int64_t moment_us, bool allow_unsupported,
                             pb::Process* process, pb::Image* image, bool deleted_files = false);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_PROCESS_H_
