// build_threads.h — the image's threads and what the kernel keeps for each.
#ifndef INCR_CKPT_RESTORE_BUILD_THREADS_H_
#define INCR_CKPT_RESTORE_BUILD_THREADS_H_

#include <sys/types.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "process/registers.h"
#include "proto/image.pb.h"
#include "restore/workbench.h"

namespace incr {

// Clones every thread but the leader, with its old tid. `created` hears of each at once, so that
// it is reaped if a later step fails. kAlreadyExists names a tid that is taken.
absl::Status CreateThreads(Workbench& bench, const pb::Process& process,
                           absl::FunctionRef<void(pid_t)> created);

// Everything of one thread; `syscalls` drives that thread and its End() then puts the image's
// registers and signal mask in. Pages must be loaded (rseq areas are read).
absl::Status RestoreThread(Workbench& bench, RemoteSyscalls& syscalls, const pb::Thread& thread,
                           pb::Image* image);

// RestoreThread for all threads but the leader.
absl::Status RestoreOtherThreads(Workbench& bench, const pb::Process& process, pb::Image* image);

// nice, policy, affinity; last, so that a low priority does not slow the restore down.
void RestoreScheduling(const pb::Process& process, pb::Image* image);

// Where a thread goes on that was stopped inside the critical section [start_ip, start_ip +
// post_commit_offset) of its rseq area: at the abort handler, as after a migration. Pure.
struct RseqSection {  // struct rseq_cs of the kernel
  uint32_t version, flags;
  uint64_t start_ip, post_commit_offset, abort_ip;
};
uint64_t AfterRseqAbort(uint64_t rip, const RseqSection& section);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_BUILD_THREADS_H_
