// A child process that writes to the target's memory from outside, and to the objects it shares.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>

#include "testdata/targets/trk_torture.h"

namespace torture {
namespace {

class Helper {
 public:
  Helper(uint64_t seed, pid_t target, int socket, int feeds, const int* feed_fds)
      : seed_(seed), target_(target), socket_(socket), feeds_(feeds), feed_fds_(feed_fds) {
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/mem", target);
    mem_ = open(path, O_RDWR | O_CLOEXEC);
    for (int i = 0; i < Objects::kCount; ++i) {
      mapped_[i] = static_cast<char*>(mmap(nullptr, Objects::kPages * kPage, PROT_READ | PROT_WRITE,
                                           MAP_SHARED, objects.fds[i], 0));
    }
  }

  [[noreturn]] void Serve() {
    for (bool running = false;;) {
      pollfd ready{socket_, POLLIN, 0};
      if (poll(&ready, 1, running ? 0 : -1) > 0) {
        char command;
        if (recv(socket_, &command, 1, 0) != 1) _exit(0);
        running = command == 'r';
        if (command == 's') Step();
        if (send(socket_, &command, 1, MSG_NOSIGNAL) != 1) _exit(0);
        continue;
      }
      if (!running) continue;
      Step();
      usleep(seed_ * steps_ % 1500);
    }
  }

 private:
  void Step() {
    Random random(seed_ * 1000003 + ++steps_);
    on_fault = OnFault::kLeaveOperation;
    if (sigsetjmp(fault_exit, 1) == 0) Dispatch(random);
    freeze_.Leave();
    rounds_.Leave();
  }

  void Dispatch(Random& random) {
    const uint64_t what = random.Pick(11);
    if (what == 0) return Feed(random);
    // What goes past the target's page tables must not be under way while a round re-arms pages.
    if (what < 6 && !rounds_.Enter()) return;
    if (!freeze_.Enter()) return;
    switch (what) {
      case 1: case 2: return WriteVm(random);
      case 3: case 4: return WriteMem(random);
      case 5: return Poke(random);
      case 6: case 7: return WriteObject(random);
      case 8: case 9: return StoreShared(random);
      default: return PunchOrTruncate(random);
    }
  }

  char* Somewhere(Random& random) const {
    const uint64_t arena = random.Pick(4);
    return At((arena == 3 ? kCommon : kOwn + arena * kOwnStride) +
              random.Pick(arena == 3 ? kCommonPages : kArenaPages) * kPage + random.Pick(kPage));
  }

  void WriteVm(Random& random) {
    char data[5000];
    FillPattern(data, sizeof data, random());
    const iovec local{data, 1 + random.Pick(sizeof data)};
    const iovec remote{Somewhere(random), local.iov_len};
    (void)process_vm_writev(target_, &local, 1, &remote, 1, 0);
  }
  // Past the protection, too.
  void WriteMem(Random& random) {
    char data[5000];
    FillPattern(data, sizeof data, random());
    (void)pwrite(mem_, data, 1 + random.Pick(sizeof data),
                 reinterpret_cast<off_t>(Somewhere(random)));
  }
  void Poke(Random& random) {
    if (ptrace(PTRACE_SEIZE, target_, nullptr, nullptr) != 0) return;
    if (ptrace(PTRACE_INTERRUPT, target_, nullptr, nullptr) == 0) {
      int status = 0;
      if (waitpid(target_, &status, __WALL) == target_ && WIFSTOPPED(status)) {
        for (uint64_t n = 1 + random.Pick(4); n > 0; --n) {
          ptrace(PTRACE_POKEDATA, target_, Somewhere(random), random());
        }
        // Stopped for a signal that came first: it goes to the target.
        const int signal = status >> 16 == 0 ? WSTOPSIG(status) : 0;
        ptrace(PTRACE_DETACH, target_, nullptr, reinterpret_cast<void*>(static_cast<long>(signal)));
      }
    }
  }
  void WriteObject(Random& random) {
    char data[3000];
    FillPattern(data, sizeof data, random());
    (void)pwrite(objects.fds[random.Pick(Objects::kCount)], data, 1 + random.Pick(sizeof data),
                 random.Pick(Objects::kPages * kPage - sizeof data));
  }
  void StoreShared(Random& random) {
    char* base = mapped_[random.Pick(Objects::kCount)];
    for (int n = 0; n < 4; ++n) base[random.Pick(Objects::kPages * kPage)] = static_cast<char>(n);
  }
  void PunchOrTruncate(Random& random) {
    const int fd = objects.fds[random.Pick(Objects::kCount)];
    if (random.OneIn(2)) {
      fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, random.Pick(Objects::kPages) * kPage,
                random.Pick(8) * kPage + 100);
    } else if (ftruncate(fd, random.Pick(Objects::kPages) * kPage + 10) == 0) {
      (void)!ftruncate(fd, Objects::kPages * kPage + 100);
    }
  }
  // No memory is written here: the target does that itself, when it runs.
  void Feed(Random& random) {
    char data[9000];
    FillPattern(data, sizeof data, random());
    (void)send(feed_fds_[random.Pick(feeds_)], data, 1 + random.Pick(sizeof data),
               MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  const uint64_t seed_;
  const pid_t target_;
  const int socket_;
  const int feeds_;
  const int* const feed_fds_;
  int mem_ = -1;
  char* mapped_[Objects::kCount];
  uint64_t steps_ = 0;
  Gate rounds_{"rounds"}, freeze_{"freeze"};
};

}  // namespace

int StartHelper(uint64_t seed, int feeds, const int* feed_fds) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  const pid_t target = getpid();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[0]);
    close(control_socket);  // The driver is to notice when the target dies.
    Helper(seed, target, ends[1], feeds, feed_fds).Serve();
  }
  close(ends[1]);
  return child > 0 ? ends[0] : -1;
}

}  // namespace torture
