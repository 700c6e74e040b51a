#include "cli/spawn_daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "cli/daemon.h"
#include "cli/json.h"

namespace incr {
namespace {

constexpr int kReadyFd = 3;

// A daemon must not inherit a caller's ignored or blocked signals, open files (a shell that
// waits for the end of a pipe would wait for the daemon) or directory (it could not be
// unmounted).
void BecomeClean(int pipe) {
  // Out of the way: where a caller has closed 0 to 2, the pipe may be one of them.
  pipe = ::fcntl(pipe, F_DUPFD, kReadyFd + 1);
  const int null = ::open("/dev/null", O_RDWR);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  // Last words of a daemon that dies before it is ready reach whoever started it.
  ::dup2(pipe, STDERR_FILENO);
  ::dup2(STDERR_FILENO, kReadyFd);
  ::syscall(SYS_close_range, kReadyFd + 1, ~0u, 0);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(077);
  (void)!::chdir("/");
}

[[noreturn]] void RunGrandchild(int pipe, const char* program, char** argv) {
  BecomeClean(pipe);
  ::execv(program, argv);
  constexpr char kWhy[] = "the daemon's program cannot be executed\n";
  (void)!::write(STDERR_FILENO, kWhy, sizeof kWhy - 1);
  ::_exit(1);
}

// Reads until the daemon is ready or gone; returns all that it said.
absl::StatusOr<std::string> ReadAnswer(int fd) {
  std::string said;
  char buffer[512];
  while (!absl::EndsWith(said, kReadyLine)) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read(the daemon's answer)");
    if (n == 0) break;
    said.append(buffer, n);
  }
  return said;
}

}  // namespace

absl::Status SpawnDaemon(const std::vector<std::string>& command) {
  // All is laid out before the fork: other threads (a store's reader has some) may hold locks.
  std::vector<std::string> arguments = command;
  arguments[0] = "incr-ckpt";
  arguments.push_back(absl::StrCat(kReadyFd));
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe2(daemon)");
  ScopedFd read_end(ends[0]), write_end(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return ErrnoStatus("fork(daemon)");
  if (child == 0) {
    ::setsid();
    const pid_t grandchild = ::fork();
    if (grandchild == 0) RunGrandchild(write_end.get(), command[0].c_str(), argv.data());
    ::_exit(grandchild < 0 ? 1 : 0);
  }
  write_end.reset();
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  INCR_ASSIGN_OR_RETURN(std::string said, ReadAnswer(read_end.get()));
  if (absl::EndsWith(said, kReadyLine)) return absl::OkStatus();
  const std::string why = CleanText(absl::StripAsciiWhitespace(said));
  if (absl::StartsWith(why, kLockedPrefix)) {
    return absl::AbortedError(absl::StripPrefix(why, kLockedPrefix));
  }
  return absl::InternalError(why.empty() ? "the daemon died before it was ready" : why);
}

}  // namespace incr
