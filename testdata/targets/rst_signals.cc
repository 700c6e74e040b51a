// Stopped inside a handler on the alternate stack, with signals pending for the process and for a
// thread, masks that differ by thread, and an interval timer running. After SIGHUP all of
// it must come out as if nothing had been.
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <atomic>

#include "rst_common.h"

static char altstack[64 << 10];
static std::atomic<int> alarms{0}, queued{0}, thread_signals{0};
static int values[3];
static std::atomic<bool> release_thread{false};

static bool OnAltstack(const void* p) {
  return p >= static_cast<void*>(altstack) && p < static_cast<void*>(altstack + sizeof altstack);
}

static void Install(int signal, void (*handler)(int, siginfo_t*, void*), int flags,
                    std::initializer_list<int> mask = {}) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  for (int blocked : mask) sigaddset(&action.sa_mask, blocked);
  EXPECT(sigaction(signal, &action, nullptr) == 0);
}

static void* Thread(void*) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  pthread_kill(pthread_self(), SIGUSR2);  // pending, for this thread
  while (!release_thread) SleepMs(2);
  sigset_t pending;
  sigpending(&pending);
  EXPECT(sigismember(&pending, SIGUSR2));
  EXPECT(thread_signals == 0);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  EXPECT(thread_signals == 1);
  return nullptr;
}

// Stays until SIGHUP has come in.
static void InHandler(int, siginfo_t*, void*) {
  char local = 0;
  EXPECT(OnAltstack(&local));
  stack_t stack;
  sigaltstack(nullptr, &stack);
  EXPECT(stack.ss_flags == SS_ONSTACK);
  Say("ready");
  while (!go) SleepMs(2);
  EXPECT(OnAltstack(&local));
  sigaltstack(nullptr, &stack);
  EXPECT(stack.ss_flags == SS_ONSTACK && stack.ss_sp == altstack);
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT(sigismember(&mask, SIGWINCH) && sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGHUP));
}

int main() {
  stack_t stack = {altstack, 0, sizeof altstack};
  EXPECT(sigaltstack(&stack, nullptr) == 0);
  GoOn(SIGHUP);
  // SIGALRM is blocked in both threads meanwhile: the timer rests, expired, until it is taken.
  Install(SIGUSR1, InHandler, SA_ONSTACK | SA_RESTART, {SIGWINCH, SIGALRM});
  Install(SIGUSR2, [](int, siginfo_t* info, void*) {
    EXPECT(info->si_code == SI_TKILL && info->si_pid == getpid());
    ++thread_signals;
  }, 0);
  Install(SIGALRM, [](int, siginfo_t*, void*) { ++alarms; }, SA_RESTART);
  Install(SIGRTMIN, [](int, siginfo_t* info, void*) {
    EXPECT(info->si_code == SI_QUEUE && info->si_pid == getpid());
    values[queued++] = info->si_value.sival_int;
  }, 0);

  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  for (int i = 0; i < 3; ++i) {
    sigval value;
    value.sival_int = 100 + i;
    EXPECT(sigqueue(getpid(), SIGRTMIN, value) == 0);
  }
  pthread_t thread;
  EXPECT(pthread_create(&thread, nullptr, Thread, nullptr) == 0);
  itimerval every = {{0, 20'000}, {0, 20'000}};
  EXPECT(setitimer(ITIMER_REAL, &every, nullptr) == 0);
  raise(SIGUSR1);  // returns after SIGHUP

  EXPECT(queued == 0);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  EXPECT(queued == 3);
  for (int i = 0; i < 3; ++i) EXPECT(values[i] == 100 + i);
  release_thread = true;
  EXPECT(pthread_join(thread, nullptr) == 0);
  const int before = alarms;
  while (alarms < before + 5) SleepMs(1);
  itimerval now;
  EXPECT(getitimer(ITIMER_REAL, &now) == 0 && now.it_interval.tv_usec == 20'000);
  Say("done");
  return 0;
}
