// stopped_launch.h — a program launched so that it can be tracked from its first instruction.
//
//   Launch       fork, exec; ptrace holds it right after the exec: dies with us (EXITKILL)
//   LetBeTraced  detached into a job-control stop, still before its first instruction
//   Release      SIGCONT: it runs
//
// Thread safety: none; ptrace belongs to the thread that called Launch.
#ifndef INCR_CKPT_PROCESS_STOPPED_LAUNCH_H_
#define INCR_CKPT_PROCESS_STOPPED_LAUNCH_H_

#include <signal.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace incr {

class StoppedLaunch {
 public:
  // `argv[0]` is looked up in PATH. The program inherits our environment, directory and open
  // files. kNotFound: no such program; kPermissionDenied: not executable. Other errors of the
  // exec keep their words.
  static absl::StatusOr<StoppedLaunch> Launch(const std::vector<std::string>& argv);

  StoppedLaunch(StoppedLaunch&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  StoppedLaunch& operator=(StoppedLaunch&&) = delete;
  ~StoppedLaunch();  // Not released: kills and reaps it; its first instruction never ran.

  pid_t pid() const { return pid_; }

  // From here on another tracer can seize it. If we die, it stays stopped until somebody sends it
  // SIGCONT.
  absl::Status LetBeTraced();

  // It runs, an ordinary child of ours, to be waited for by the caller. Sends no second SIGCONT to
  // one that has been let go already: the program would see it. REQUIRES: LetBeTraced().
  void Release();

 private:
  explicit StoppedLaunch(pid_t pid) : pid_(pid) {}
  pid_t pid_;  // 0: released or moved from
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_STOPPED_LAUNCH_H_
