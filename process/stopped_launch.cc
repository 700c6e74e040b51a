#include "process/stopped_launch.h"

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/status.h"

namespace incr {
namespace {

void KillAndReap(pid_t pid) {
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

// In the child: waits until it is seized, then becomes the program. An errno through `failure`
// says why it did not.
[[noreturn]] void BecomeProgram(int go, int failure, const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.data()));
  argv.push_back(nullptr);
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(1);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  (void)!::write(failure, &error, sizeof error);
  ::_exit(127);
}

enum class ExecOutcome { kStoppedAfterExec, kExited };

absl::StatusOr<ExecOutcome> AwaitExec(pid_t pid) {
  for (;;) {
    int status = 0;
    if (::waitpid(pid, &status, __WALL) < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(absl::StrCat("waitpid(", pid, ")"));
    }
    if (!WIFSTOPPED(status)) return ExecOutcome::kExited;
    const int event = status >> 16, signal = WSTOPSIG(status);
    if (event == PTRACE_EVENT_EXEC) return ExecOutcome::kStoppedAfterExec;
    // A signal on its way to the child, or a stop of the job by its terminal.
    const bool group_stop = event == PTRACE_EVENT_STOP && signal != SIGTRAP;
    if (::ptrace(group_stop ? PTRACE_LISTEN : PTRACE_CONT, pid, nullptr,
                 event == 0 ? signal : 0) != 0 &&
        errno != ESRCH) {
      return ErrnoStatus(absl::StrCat("ptrace(", pid, ")"));
    }
  }
}

}  // namespace

absl::StatusOr<StoppedLaunch> StoppedLaunch::Launch(const std::vector<std::string>& argv) {
  INCR_CHECK(!argv.empty());
  int go_ends[2], failure_ends[2];
  if (::pipe2(go_ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  ScopedFd go_read(go_ends[0]), go_write(go_ends[1]);
  if (::pipe2(failure_ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  ScopedFd failure_read(failure_ends[0]), failure_write(failure_ends[1]);

  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoStatus("fork");
  if (pid == 0) {
    ::close(go_write.get());
    BecomeProgram(go_read.get(), failure_write.get(), argv);
  }
  StoppedLaunch launch(pid);
  failure_write.reset();
  if (::ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) != 0) {
    return ErrnoStatus(absl::StrCat("ptrace(PTRACE_SEIZE, ", pid, ")"));
  }
  (void)!::write(go_write.get(), "g", 1);
  INCR_ASSIGN_OR_RETURN(ExecOutcome outcome, AwaitExec(pid));
  if (outcome == ExecOutcome::kStoppedAfterExec) return launch;
  launch.pid_ = 0;  // Reaped by AwaitExec.
  int error = 0;
  if (::read(failure_read.get(), &error, sizeof error) != sizeof error) {
    return absl::AbortedError(absl::StrCat(argv[0], " was killed before it began"));
  }
  return ErrnoStatus(error, argv[0]);
}

StoppedLaunch::~StoppedLaunch() {
  if (pid_ != 0) KillAndReap(pid_);
}

absl::Status StoppedLaunch::LetBeTraced() {
  // Pending before the detach, so it is taken on the way out of the exec: a signal given to
  // PTRACE_DETACH itself is ignored in an event stop.
  if (::kill(pid_, SIGSTOP) != 0) return ErrnoStatus(absl::StrCat("kill(", pid_, ", SIGSTOP)"));
  if (::ptrace(PTRACE_DETACH, pid_, nullptr, nullptr) != 0) {
    return ErrnoStatus(absl::StrCat("ptrace(PTRACE_DETACH, ", pid_, ")"));
  }
  int status = 0;
  while (::waitpid(pid_, &status, WUNTRACED) < 0) {
    if (errno != EINTR) return ErrnoStatus(absl::StrCat("waitpid(", pid_, ")"));
  }
  if (WIFSTOPPED(status)) return absl::OkStatus();
  pid_ = 0;
  return absl::AbortedError("the command was killed before it began");
}

void StoppedLaunch::Release() {
  const pid_t pid = std::exchange(pid_, 0);
  siginfo_t info{};
  const bool running = ::waitid(P_PID, pid, &info, WCONTINUED | WNOHANG) == 0 && info.si_pid == pid;
  if (!running) ::kill(pid, SIGCONT);
}

}  // namespace incr
