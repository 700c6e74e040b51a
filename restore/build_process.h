// build_process.h — what the process as a whole has besides memory, files and threads.
#ifndef INCR_CKPT_RESTORE_BUILD_PROCESS_H_
#define INCR_CKPT_RESTORE_BUILD_PROCESS_H_

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/workbench.h"

namespace incr {

// Session and process group, where the process led them; else it joins ours.
absl::Status RestoreJobControl(Workbench& bench, const pb::Process& process);

// As many descriptors as we may have, while they are put into place.
absl::Status RaiseDescriptorLimit(pid_t pid);

// What the address space as a whole has; before threads and pages: huge pages forbidden, and
// membarrier(2) allowed. Nobody can ask a process on an older kernel (before 6.3) whether it
// registered for that, so everyone is; unregistered, its fences would fail with EPERM.
absl::Status RestoreMemoryAttributes(Workbench& bench, const pb::Process& process,
                                     pb::Image* image);

// Personality, dumpability, no_new_privs, subreaper, signal actions.
absl::Status RestoreAttributes(Workbench& bench, const pb::Process& process, pb::Image* image);

// Pending signals, then interval timers, which run from then on; so nearly last.
absl::Status RestorePendingAndTimers(Workbench& bench, const pb::Process& process);

// From outside, last. A hard limit above ours becomes ours, with a warning.
absl::Status RestoreLimits(const pb::Process& process, pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_BUILD_PROCESS_H_
