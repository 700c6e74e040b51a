// frozen_process.h — every thread of a process stopped by ptrace, for as long as
// the guard lives.
//
// PTRACE_SEIZE + PTRACE_INTERRUPT on each thread, repeated over /proc/<pid>/task
// until a pass finds nobody new (PTRACE_O_TRACECLONE catches threads born
// meanwhile). On return every thread rests in a ptrace stop *inside the kernel's
// signal path*, so that a detach lets an interrupted system call restart by itself.
//
// Destruction detaches every thread and leaves registers, signal mask, pending
// signals and a job-control stop (SIGSTOP) exactly as they were.
//
// Thread safety: none. ptrace belongs to one thread: all calls, destruction
// included, come from the thread that called Freeze.
#ifndef INCR_CKPT_PROCESS_FROZEN_PROCESS_H_
#define INCR_CKPT_PROCESS_FROZEN_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "process/process_handle.h"

namespace incr {

class FrozenProcess {
 public:
  // `process` must outlive the result. kNotFound if the target exits meanwhile,
  // kFailedPrecondition if another tracer has it, kPermissionDenied if we may not trace it or may
  // not suspend its seccomp filter.
  // kDeadlineExceeded: a thread did not stop in `patience_us` (it waits for a vfork child or a
  // dead disk). The others run on; but the kernel cannot detach a thread that does not stop, so
  // that one would stop later and stay so: the calling thread must exit, which detaches it.
  static absl::StatusOr<FrozenProcess> Freeze(const ProcessHandle& process,
                                              int64_t patience_us = 3'000'000);

  // Takes over threads that this thread already traces and has stopped (a restore
  // builds its process that way). Leader first.
  static FrozenProcess Adopt(const ProcessHandle& process, std::vector<pid_t> tids);

  FrozenProcess(FrozenProcess&&) noexcept;
  FrozenProcess& operator=(FrozenProcess&&) = delete;
  ~FrozenProcess();

  // Leader first, then by tid.
  const std::vector<pid_t>& tids() const { return tids_; }
  const ProcessHandle& process() const { return *process_; }
  bool was_group_stopped() const { return was_group_stopped_; }  // T state before us
  // Just before the first thread was told to stop, on MonotonicMicros(); 0 if adopted.
  int64_t since_us() const { return since_us_; }

  // Normal path: detach all and say what failed. A thread that has died meanwhile
  // (SIGKILL gets through a ptrace stop) is no failure.
  absl::Status Thaw() &&;

 private:
  FrozenProcess() = default;
  absl::Status Release();
  const ProcessHandle* process_ = nullptr;
  std::vector<pid_t> tids_;
  bool was_group_stopped_ = false;
  int64_t since_us_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_FROZEN_PROCESS_H_
