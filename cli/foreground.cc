#include "cli/foreground.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace incr {
namespace {

constexpr int kEndSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
constexpr int kOtherSignals[] = {SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO,
                                 SIGPWR,  SIGWINCH, SIGTSTP, SIGCONT, SIGCHLD};

bool IsTerminalStop(int signal) {
  return signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

}  // namespace

int ExitStatusOf(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

Foreground::Foreground() {
  sigemptyset(&signals_);
  for (int signal : kEndSignals) sigaddset(&signals_, signal);
  for (int signal : kOtherSignals) sigaddset(&signals_, signal);
  ::sigprocmask(SIG_BLOCK, &signals_, &original_);
}

Foreground::~Foreground() { ::sigprocmask(SIG_SETMASK, &original_, nullptr); }

int Foreground::PendingEndSignal() const {
  sigset_t pending;
  ::sigpending(&pending);
  for (int signal : kEndSignals) {
    if (sigismember(&pending, signal)) return signal;
  }
  return 0;
}

void Foreground::PassOn(const siginfo_t& info, pid_t pid) {
  if (info.si_signo == SIGCHLD) return;
  const bool sent_by_process = info.si_code <= 0;
  if (sent_by_process && info.si_pid == pid) return;  // It signalled its own group.
  if (sent_by_process || ::getpgid(pid) != ::getpgrp()) ::kill(pid, info.si_signo);
}

int Foreground::WaitFor(pid_t pid) {
  for (;;) {
    int status = 0;
    const pid_t changed = ::waitpid(pid, &status, WNOHANG | WUNTRACED | __WALL);
    if (changed < 0 && errno != EINTR) return 1;  // Not our child: cannot be.
    if (changed == pid && !WIFSTOPPED(status)) return ExitStatusOf(status);
    if (changed == pid && IsTerminalStop(WSTOPSIG(status))) {
      ::raise(SIGSTOP);  // Until the shell's fg or bg.
      ::kill(pid, SIGCONT);
    }
    // A child whose end is not told by SIGCHLD is found out by the timeout.
    const timespec patience{0, 500'000'000};
    siginfo_t info;
    if (::sigtimedwait(&signals_, &info, &patience) > 0) PassOn(info, pid);
  }
}

}  // namespace incr
