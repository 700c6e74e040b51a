// A thread in every kind of blocking call. After SIGUSR1 main wakes each, and none may have seen
// EINTR or a wrong result.
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>

#include "rst_common.h"

static int read_pipe[2], poll_pipe[2], select_pipe[2], epoll_pipe[2];
static int event, full_pipe[2];
static std::atomic<uint32_t> word{0}, timed_word{0};
static sem_t semaphore;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static std::atomic<int> entered{0};

static double Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

static void Entered() { ++entered; }

static void* Nanosleep(void*) {
  const double start = Now();
  timespec time = {1, 500'000'000};
  Entered();
  EXPECT(syscall(SYS_nanosleep, &time, nullptr) == 0);
  EXPECT(Now() - start >= 1.5);
  return nullptr;
}
static void* ClockNanosleep(void*) {
  const double start = Now();
  timespec time = {1, 500'000'000};
  Entered();
  EXPECT(clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr) == 0);
  EXPECT(Now() - start >= 1.5);
  return nullptr;
}
static void* AbsoluteSleep(void*) {
  const double start = Now();
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  time.tv_sec += 1;
  Entered();
  EXPECT(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == 0);
  EXPECT(Now() - start >= 1.0);
  return nullptr;
}
static void* Futex(void*) {
  Entered();
  EXPECT(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, nullptr) == 0 || errno == EAGAIN);
  EXPECT(word == 1);
  return nullptr;
}
static void* TimedFutex(void*) {
  timespec time = {30, 0};
  Entered();
  EXPECT(syscall(SYS_futex, &timed_word, FUTEX_WAIT_PRIVATE, 0, &time) == 0 || errno == EAGAIN);
  EXPECT(timed_word == 1);
  return nullptr;
}
static void* Read(void*) {
  char byte = 0;
  Entered();
  EXPECT(read(read_pipe[0], &byte, 1) == 1 && byte == 'r');
  return nullptr;
}
static void* Write(void*) {  // into a full pipe
  Entered();
  EXPECT(write(full_pipe[1], "w", 1) == 1);
  return nullptr;
}
static void* Poll(void*) {
  pollfd wait = {poll_pipe[0], POLLIN, 0};
  Entered();
  EXPECT(poll(&wait, 1, -1) == 1 && wait.revents == POLLIN);
  return nullptr;
}
static void* TimedPoll(void*) {
  pollfd wait = {poll_pipe[0], POLLIN, 0};
  Entered();
  EXPECT(poll(&wait, 1, 30000) == 1 && wait.revents == POLLIN);
  return nullptr;
}
static void* Select(void*) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(select_pipe[0], &set);
  timeval time = {30, 0};
  Entered();
  EXPECT(select(select_pipe[0] + 1, &set, nullptr, nullptr, &time) == 1);
  return nullptr;
}
static void* Epoll(void*) {
  const int epoll = epoll_create1(0);
  epoll_event watch = {EPOLLIN, {}};
  watch.data.u64 = 0x1234567890abcdef;
  EXPECT(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll_pipe[0], &watch) == 0);
  epoll_event got = {};
  Entered();
  EXPECT(epoll_wait(epoll, &got, 1, -1) == 1);
  EXPECT(got.data.u64 == 0x1234567890abcdef);
  return nullptr;
}
static void* Eventfd(void*) {
  uint64_t value = 0;
  Entered();
  EXPECT(read(event, &value, 8) == 8 && value == 5);
  return nullptr;
}
static void* Sigsuspend(void*) {
  static std::atomic<int> handled{0};
  struct sigaction action = {};
  action.sa_handler = [](int) { ++handled; };
  sigaction(SIGUSR2, &action, nullptr);
  sigset_t before, during;
  sigemptyset(&before);
  sigaddset(&before, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &before, nullptr);
  sigfillset(&during);
  sigdelset(&during, SIGUSR2);
  Entered();
  EXPECT(sigsuspend(&during) == -1 && errno == EINTR);
  EXPECT(handled == 1);  // Only by the signal itself.
  return nullptr;
}
static void* Sigwait(void*) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  Entered();
  siginfo_t info;
  EXPECT(sigwaitinfo(&set, &info) == SIGRTMIN);
  return nullptr;
}
static void* Semaphore(void*) {
  Entered();
  EXPECT(sem_wait(&semaphore) == 0);
  return nullptr;
}
static void* Mutex(void*) {
  Entered();
  EXPECT(pthread_mutex_lock(&held) == 0);
  pthread_mutex_unlock(&held);
  return nullptr;
}

int main() {
  GoOn(SIGUSR1);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int signal : {SIGUSR1, SIGRTMIN}) sigaddset(&blocked, signal);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);  // Only main's sigsuspend gets SIGUSR1.
  EXPECT(pipe(read_pipe) == 0 && pipe(poll_pipe) == 0 && pipe(select_pipe) == 0);
  EXPECT(pipe(epoll_pipe) == 0 && pipe(full_pipe) == 0);
  event = eventfd(0, 0);
  fcntl(full_pipe[1], F_SETFL, O_NONBLOCK);
  char block[4096] = {};
  while (write(full_pipe[1], block, sizeof block) > 0) {
  }
  fcntl(full_pipe[1], F_SETFL, 0);
  sem_init(&semaphore, 0, 0);
  pthread_mutex_lock(&held);

  void* (*const calls[])(void*) = {Nanosleep, ClockNanosleep, AbsoluteSleep, Futex, TimedFutex,
                                   Read,      Write,          Poll,          TimedPoll, Select,
                                   Epoll,     Eventfd,        Sigsuspend,    Sigwait, Semaphore,
                                   Mutex};
  constexpr int kCalls = sizeof calls / sizeof calls[0];
  pthread_t threads[kCalls];
  pthread_t suspended = 0, waiting = 0;
  for (int i = 0; i < kCalls; ++i) {
    EXPECT(pthread_create(&threads[i], nullptr, calls[i], nullptr) == 0);
    if (calls[i] == Sigsuspend) suspended = threads[i];
    if (calls[i] == Sigwait) waiting = threads[i];
  }
  while (entered < kCalls) SleepMs(1);
  SleepMs(50);  // From "about to call" to "in the call".
  Say("ready");
  sigset_t none;
  sigemptyset(&none);
  sigaddset(&none, SIGRTMIN);
  while (!go) sigsuspend(&none);

  word = 1;
  timed_word = 1;
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 9);
  syscall(SYS_futex, &timed_word, FUTEX_WAKE_PRIVATE, 9);
  const uint64_t five = 5;
  EXPECT(write(read_pipe[1], "r", 1) == 1 && write(poll_pipe[1], "p", 1) == 1);
  EXPECT(write(select_pipe[1], "s", 1) == 1 && write(epoll_pipe[1], "e", 1) == 1);
  EXPECT(write(event, &five, 8) == 8);
  EXPECT(read(full_pipe[0], block, sizeof block) == sizeof block);
  pthread_kill(suspended, SIGUSR2);
  pthread_kill(waiting, SIGRTMIN);
  sem_post(&semaphore);
  pthread_mutex_unlock(&held);
  for (int i = 0; i < kCalls; ++i) {
    EXPECT(pthread_join(threads[i], nullptr) == 0);
    Say("joined %d", i);
  }
  Say("done");
  return 0;
}
