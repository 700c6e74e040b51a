#include "checkpoint/forked_target.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace incr {

struct ForkedTarget::Shared {
  std::atomic<uint32_t> ready;
  std::atomic<uint32_t> go;
  char message[4000];
};

namespace {

void Raise(std::atomic<uint32_t>& flag) {
  flag.store(1);
  ::syscall(SYS_futex, &flag, FUTEX_WAKE, 100, nullptr, nullptr, 0);
}

// False: not raised within 20 s.
bool AwaitFlag(std::atomic<uint32_t>& flag) {
  for (int tenths = 0; tenths < 200; ++tenths) {
    if (flag.load() != 0) return true;
    const timespec wait = {0, 100'000'000};
    ::syscall(SYS_futex, &flag, FUTEX_WAIT, 0, &wait, nullptr, 0);
  }
  return false;
}

void CleanTable() {
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
  ::close_range(3, ~0u, 0);
}

}  // namespace

void ForkedTarget::Start(bool clean, const Setup& setup, const Check& check) {
  shared_ = static_cast<Shared*>(::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (clean) CleanTable();
    if (setup) setup();
    Raise(shared_->ready);
    if (!AwaitFlag(shared_->go)) ::_exit(3);
    const std::string wrong = check ? check() : "";
    std::snprintf(shared_->message, sizeof shared_->message, "%s", wrong.c_str());
    ::_exit(0);
  }
  if (!AwaitFlag(shared_->ready)) std::abort();
  handle_ = std::make_unique<ProcessHandle>(ProcessHandle::Open(pid_).value());
}

ForkedTarget ForkedTarget::Clean(Setup setup, Check check) {
  ForkedTarget target;
  target.Start(true, setup, check);
  return target;
}

ForkedTarget ForkedTarget::Inheriting(Check check) {
  ForkedTarget target;
  target.Start(false, nullptr, check);
  return target;
}

ForkedTarget::ForkedTarget(ForkedTarget&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      shared_(std::exchange(other.shared_, nullptr)),
      handle_(std::move(other.handle_)) {}

std::string ForkedTarget::Finish() {
  Raise(shared_->go);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = 0;
  if (WIFSIGNALED(status)) return std::string("killed by ") + strsignal(WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return "exit status " + std::to_string(WEXITSTATUS(status));
  return shared_->message;
}

void ForkedTarget::Kill() {
  if (pid_ != 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  if (shared_ != nullptr) ::munmap(std::exchange(shared_, nullptr), sizeof(Shared));
}

int MoveFd(int fd, int number) {
  if (fd == number) return fd;
  ::dup2(fd, number);
  ::close(fd);
  return number;
}

}  // namespace incr
