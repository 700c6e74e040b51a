#include "cli/foreground.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace incr {
namespace {

// Runs `body` in a child with the signal mask of now; the child's pid.
template <typename Body>
pid_t Child(const Body& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    body();
    ::_exit(0);
  }
  return pid;
}

TEST(ForegroundTest, TheChildsStatusIsOurs) {
  const pid_t quits = Child([] { ::_exit(7); });
  EXPECT_EQ(Foreground().WaitFor(quits), 7);
  const pid_t killed = Child([] { ::pause(); });
  ::kill(killed, SIGKILL);
  EXPECT_EQ(Foreground().WaitFor(killed), 137);
}

// A process like `incr-ckpt run`: its child exits with 40 + N on signal N. The parent is told when
// both are ready.
class Standin {
 public:
  explicit Standin(bool own_group) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = Child([&] {
      ::setpgid(0, 0);
      const pid_t child = Child([&] {
        if (own_group) ::setpgid(0, 0);
        for (int signal : {SIGTERM, SIGINT, SIGUSR1}) {
          ::signal(signal, [](int n) { ::_exit(40 + n); });
        }
        (void)!::write(ready[1], "c", 1);
        for (;;) ::pause();
      });
      Foreground foreground;
      (void)!::write(ready[1], "f", 1);
      ::_exit(foreground.WaitFor(child));
    });
    char byte;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  }
  pid_t pid() const { return pid_; }
  int Wait() const {
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    return ExitStatusOf(status);
  }

 private:
  pid_t pid_;
};

TEST(ForegroundTest, SignalsGoOnToTheChild) {
  for (const bool own_group : {false, true}) {
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) {
      const Standin standin(own_group);
      ::kill(standin.pid(), signal);
      EXPECT_EQ(standin.Wait(), 40 + signal);
    }
  }
}

TEST(ForegroundTest, AChildThatAnotherStopsDoesNotStopUs) {
  const pid_t child = Child([] { ::pause(); });
  ::kill(child, SIGSTOP);
  siginfo_t info{};
  ::waitid(P_PID, child, &info, WSTOPPED | WNOWAIT);
  const pid_t killer = Child([&] {
    ::usleep(50'000);
    ::kill(child, SIGKILL);
  });
  EXPECT_EQ(Foreground().WaitFor(child), 137);
  ::waitpid(killer, nullptr, 0);
}

TEST(ForegroundTest, SignalsWaitInsteadOfKilling) {
  Foreground foreground;
  EXPECT_EQ(foreground.PendingEndSignal(), 0);
  ::raise(SIGTERM);
  EXPECT_EQ(foreground.PendingEndSignal(), SIGTERM);
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  ::sigwaitinfo(&term, nullptr);
}

}  // namespace
}  // namespace incr
