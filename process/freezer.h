// freezer.h — one attempt to stop every thread of a process (see frozen_process.h).
// The tracing thread only.
#ifndef INCR_CKPT_PROCESS_FREEZER_H_
#define INCR_CKPT_PROCESS_FREEZER_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "process/exec_watch.h"
#include "process/process_handle.h"

namespace incr {

class Freezer {
 public:
  // `process` outlives the freezer.
  Freezer(const ProcessHandle& process, int64_t patience_us);

  // Every thread rests in the signal path, its registers put right (invisible_stop.h), seccomp
  // suspended. After an error call Detach().
  absl::Status Freeze();

  // Lets go of all that was seized, whatever happened.
  void Detach();

  std::vector<pid_t> Tids() const;  // leader first
  bool group_stopped() const { return group_stopped_; }
  // Just before the first thread was told to stop, on MonotonicMicros(); 0: none was.
  int64_t since_us() const { return since_us_; }

 private:
  struct Tracee {
    bool stopped = false;
  };

  absl::Status StopAll();
  bool EverybodyRests() const;
  absl::Status SeizeNew(bool* found_new);
  absl::Status ExplainRefusal(pid_t tid, int error, bool* found_new);
  absl::Status AwaitStop(pid_t tid);
  void ReapKilled(pid_t except);
  absl::Status WaitForNewLeader();
  void NoteNewTask(pid_t parent);
  void AdoptAttached();
  absl::Status DismissStrangers();
  absl::Status Prepare(bool* lost);
  absl::Status AllowInjection(pid_t tid);
  absl::Status TimedOut(pid_t tid) const;
  absl::Status Exited() const;

  const ProcessHandle& process_;
  const int64_t patience_us_;
  const int64_t deadline_us_;
  std::map<pid_t, Tracee> tracees_;
  std::vector<pid_t> strangers_;  // processes that PTRACE_O_TRACECLONE attached
  std::set<pid_t> stuck_;         // could not be stopped, hence not detached
  std::optional<ExecWatch> watch_;  // once there are several threads
  int64_t since_us_ = 0;
  int64_t leaderless_since_us_ = 0;
  int64_t refused_since_us_ = 0;
  bool group_stopped_ = false;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_FREEZER_H_
