// process_handle.h — one process, held so that its pid cannot come to mean another.
//
// A pid is reused; a pidfd is not. A handle opens the pidfd, reads the start time
// (/proc/<pid>/stat field 22) and keeps both; nothing in this project acts on a
// bare pid (invariant 4). Thread-safe after construction.
#ifndef INCR_CKPT_PROCESS_PROCESS_HANDLE_H_
#define INCR_CKPT_PROCESS_PROCESS_HANDLE_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"

namespace incr {

class ProcessHandle {
 public:
  // kNotFound when there is no such process. Does not check that it may be traced.
  static absl::StatusOr<ProcessHandle> Open(pid_t pid);

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  uint64_t start_time() const { return start_time_; }  // clock ticks since boot

  // False once it has exited (a zombie is not alive).
  bool alive() const;

  // "/proc/<pid>/<name>". Opening it can race with an exit: check alive() after.
  std::string ProcPath(absl::string_view name) const;

  // pidfd_getfd(2): our own descriptor of the target's open file `fd` (same open file description).
  absl::StatusOr<ScopedFd> DuplicateFd(int fd) const;

  absl::Status SendSignal(int signal) const;  // pidfd_send_signal

 private:
  ProcessHandle(pid_t pid, ScopedFd pidfd, uint64_t start_time)
      : pid_(pid), pidfd_(std::move(pidfd)), start_time_(start_time) {}
  pid_t pid_;
  ScopedFd pidfd_;
  uint64_t start_time_;
};

// OK if incr-ckpt can track this process; otherwise one sentence for the user that
// names the pid and the reason: a kernel thread, ourselves (this process or an
// ancestor of it), traced by someone else (names the tracer's pid), owned by
// another user (also when we are root: credentials are not restored yet), a
// zombie, a 32-bit program.
absl::Status CheckTrackable(const ProcessHandle& process);

// Fields of /proc/<pid>/status and /proc/<pid>/stat that others need.
struct ProcessFacts {
  std::string comm;
  pid_t ppid, pgid, sid, tracer;
  uint32_t uid, euid, suid, fsuid, gid, egid, sgid, fsgid;
  uint32_t umask;
  uint32_t thread_count;
  bool kernel_thread;
  bool zombie;
  bool no_new_privs;
  uint32_t seccomp_mode;
  uint64_t start_time;
  uint64_t faults;  // page faults of all its threads so far, dead ones included, no I/O needed
  // stat: addresses, 0 if hidden
  uint64_t start_code, end_code, start_stack, start_data, end_data, start_brk;
  uint64_t arg_start, arg_end, env_start, env_end;
};
absl::StatusOr<ProcessFacts> ReadProcessFacts(const ProcessHandle& process);

// The CPU that its first thread used last; -1: not known, or the thread is of a real-time policy and may not let
// anybody else have it.
int LastCpuOf(const ProcessHandle& process);

// Ids of its threads now, in task order, which is by age; none if it is gone.
absl::StatusOr<std::vector<pid_t>> ListThreads(const ProcessHandle& process);

// Pids of live children of any thread, or of the threads `tids` (/proc/<pid>/task/<tid>/children).
absl::StatusOr<std::vector<pid_t>> ListChildren(const ProcessHandle& process);
absl::StatusOr<std::vector<pid_t>> ListChildren(const ProcessHandle& process,
                                                const std::vector<pid_t>& tids);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_PROCESS_HANDLE_H_
