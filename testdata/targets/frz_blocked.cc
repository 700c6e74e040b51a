// Threads that block in every kind of interruptible call and would notice an interruption: an
// EINTR, a kernel-only errno, a signal lost or counted twice, a time-out too early or started anew.
// Prints "ready", at the end of its input a line "ok <calls made>" or "BAD ...".
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace {

std::atomic<bool> stopping{false};
std::atomic<long> calls{0};
constexpr int64_t kTimeoutMs = 50;
// Freezes delay a time-out; one that started anew at each freeze would be seconds late.
constexpr int64_t kLateMs = 1500;

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

[[noreturn]] void Bad(const char* what, long result, int error, int64_t elapsed_ms) {
  printf("BAD %s: result %ld errno %d after %ld ms\n", what, result, error, (long)elapsed_ms);
  fflush(stdout);
  _exit(1);
}

// A call that must run into its time-out, with `wanted` as its result (and errno if -1).
void Timed(const char* what, long wanted, int wanted_errno, const std::function<long()>& call) {
  const int64_t start = NowMs();
  errno = 0;
  const long result = call();
  const int error = errno;
  const int64_t elapsed = NowMs() - start;
  if (result != wanted || (result == -1 && error != wanted_errno) || elapsed < kTimeoutMs - 1 ||
      elapsed > kTimeoutMs + kLateMs) {
    Bad(what, result, error, elapsed);
  }
  ++calls;
}

// A call without time-out that must give `wanted`.
void Untimed(const char* what, long wanted, const std::function<long()>& call) {
  errno = 0;
  const long result = call();
  if (result != wanted) Bad(what, result, errno, 0);
  ++calls;
}

timespec Timeout() { return {0, kTimeoutMs * 1000000}; }

std::vector<std::thread> threads;
void Loop(const std::function<void()>& once) {
  threads.emplace_back([once] {
    while (!stopping) once();
  });
}

// Pipes and the like that the ticker feeds once per tick.
std::vector<std::function<void()>> feeders;

thread_local volatile sig_atomic_t handled;
void CountSignal(int) { handled = handled + 1; }

uint32_t futex_word, forever_word;

void BlockWithTimeouts() {
  Loop([] {
    Timed("nanosleep", 0, 0, [] {
      timespec t = Timeout();
      return syscall(SYS_nanosleep, &t, nullptr);
    });
  });
  Loop([] {
    Timed("clock_nanosleep absolute", 0, 0, [] {
      timespec t;
      clock_gettime(CLOCK_MONOTONIC, &t);
      t.tv_nsec += kTimeoutMs * 1000000;
      if (t.tv_nsec >= 1000000000) t.tv_nsec -= 1000000000, ++t.tv_sec;
      return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
    });
  });
  Loop([] {
    Timed("futex with timeout", -1, ETIMEDOUT, [] {
      timespec t = Timeout();
      return syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, &t, nullptr, 0);
    });
  });
  int ends[2];
  if (pipe(ends) != 0) abort();
  const int silent = ends[0];
  Loop([silent] {
    Timed("poll", 0, 0, [silent] {
      pollfd p{silent, POLLIN, 0};
      return syscall(SYS_poll, &p, 1, kTimeoutMs);
    });
  });
  Loop([silent] {
    Timed("select", 0, 0, [silent] {
      fd_set set;
      FD_ZERO(&set);
      FD_SET(silent, &set);
      timeval t{0, kTimeoutMs * 1000};
      return syscall(SYS_select, silent + 1, &set, nullptr, nullptr, &t);
    });
  });
  Loop([silent] {
    Timed("ppoll", 0, 0, [silent] {
      pollfd p{silent, POLLIN, 0};
      timespec t = Timeout();
      uint64_t mask = 0;
      return syscall(SYS_ppoll, &p, 1, &t, &mask, 8);
    });
  });
}

void BlockForEver() {
  int ends[2];
  if (pipe(ends) != 0) abort();
  feeders.push_back([to = ends[1]] { (void)!write(to, "x", 1); });
  Loop([from = ends[0]] {
    char byte;
    Untimed("read of a pipe", 1, [&] { return syscall(SYS_read, from, &byte, 1); });
  });

  if (pipe(ends) != 0) abort();
  feeders.push_back([to = ends[1]] { (void)!write(to, "x", 1); });
  const int epoll = epoll_create1(0);
  epoll_event watch{};
  watch.events = EPOLLIN;
  epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &watch);
  Loop([epoll, from = ends[0]] {
    epoll_event event;
    char byte;
    Untimed("epoll_wait", 1, [&] { return syscall(SYS_epoll_wait, epoll, &event, 1, -1); });
    Untimed("read after epoll_wait", 1, [&] { return syscall(SYS_read, from, &byte, 1); });
  });

  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) abort();
  feeders.push_back([to = pair[1]] { (void)!write(to, "x", 1); });
  Loop([from = pair[0]] {
    char byte;
    Untimed("recvfrom", 1, [&] { return syscall(SYS_recvfrom, from, &byte, 1, 0, 0, 0); });
  });

  const int semaphore = semget(IPC_PRIVATE, 1, 0600);
  if (semaphore >= 0) {
    feeders.push_back([semaphore] {
      sembuf up{0, 1, 0};
      semop(semaphore, &up, 1);
    });
    Loop([semaphore] {
      sembuf down{0, -1, 0};
      Untimed("semop", 0, [&] { return syscall(SYS_semop, semaphore, &down, 1); });
    });
    threads.emplace_back([semaphore] {  // gone with the program
      while (!stopping) usleep(10000);
      for (int i = 0; i < 20; ++i) {
        sembuf up{0, 1, 0};
        semop(semaphore, &up, 1);
        usleep(10000);
      }
      semctl(semaphore, 0, IPC_RMID);
    });
  }

  feeders.push_back([] {
    __atomic_add_fetch(&forever_word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &forever_word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  });
  Loop([] {
    const uint32_t seen = __atomic_load_n(&forever_word, __ATOMIC_SEQ_CST);
    errno = 0;
    const long result =
        syscall(SYS_futex, &forever_word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    if (result != 0 && errno != EAGAIN) Bad("futex", result, errno, 0);
    ++calls;
  });
}

// Threads that wait for signals of their own. Every signal sent must arrive, once.
void WaitForSignals() {
  struct sigaction action {};
  action.sa_handler = CountSignal;
  sigaction(SIGUSR2, &action, nullptr);
  uint64_t blocked = (1ull << (SIGUSR1 - 1)) | (1ull << (SIGUSR2 - 1));
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, nullptr, 8);

  static std::atomic<pid_t> waiter{0}, suspender{0};
  static std::atomic<long> waited{0}, suspended{0};
  feeders.push_back([] {
    static long sent_1 = 0, sent_2 = 0;
    // One at a time, since a second one would merge with the first.
    if (waiter != 0 && waited == sent_1) ++sent_1, syscall(SYS_tgkill, getpid(), waiter.load(), SIGUSR1);
    if (suspender != 0 && suspended == sent_2) {
      ++sent_2, syscall(SYS_tgkill, getpid(), suspender.load(), SIGUSR2);
    }
  });
  Loop([] {
    waiter = static_cast<pid_t>(syscall(SYS_gettid));
    uint64_t set = 1ull << (SIGUSR1 - 1);
    siginfo_t info;
    Untimed("rt_sigtimedwait", SIGUSR1,
            [&] { return syscall(SYS_rt_sigtimedwait, &set, &info, nullptr, 8); });
    ++waited;
  });
  Loop([] {
    suspender = static_cast<pid_t>(syscall(SYS_gettid));
    uint64_t none = 0;
    const sig_atomic_t before = handled;
    const long result = syscall(SYS_rt_sigsuspend, &none, 8);
    if (result != -1 || errno != EINTR || handled != before + 1) {
      Bad("rt_sigsuspend", result, errno, handled - before);
    }
    uint64_t mask = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, nullptr, &mask, 8);
    if (mask != ((1ull << (SIGUSR1 - 1)) | (1ull << (SIGUSR2 - 1)))) {
      Bad("mask after rt_sigsuspend", (long)mask, 0, 0);
    }
    ++calls;
    ++suspended;
  });
}

}  // namespace

int main() {
  WaitForSignals();
  BlockWithTimeouts();
  BlockForEver();
  std::thread ticker([] {
    while (!stopping) {
      usleep(3000);
      for (const auto& feed : feeders) feed();
    }
    for (int i = 0; i < 20; ++i) {  // lets everybody see `stopping`
      usleep(10000);
      for (const auto& feed : feeders) feed();
    }
  });
  puts("ready");
  fflush(stdout);
  char byte;
  for (;;) {
    const ssize_t n = read(0, &byte, 1);
    if (n < 0) Bad("read of stdin", n, errno, 0);
    if (n == 0) break;
  }
  stopping = true;
  for (std::thread& thread : threads) thread.join();
  ticker.join();
  printf("ok %ld\n", calls.load());
}
