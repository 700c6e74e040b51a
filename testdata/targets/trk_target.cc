// trk_target — does with its memory what it is told: the puppet of the tracker's tests.
//
// Usage: trk_target SOCKET_FD FILE. One command per SEQPACKET message, numbers in hex, sizes in
// pages; the answer is "ok [number]" or "error <errno>". FILE is what file mappings are of.
//
//   map ADDR PAGES PROT KIND [OFFSET]   KIND: anon shared file sharedfile zero noreserve memfd
//                                       privatememfd sysv huge sharedhuge (hugetlbfs)
//   unmap ADDR PAGES | protect ADDR PAGES PROT | advise ADDR PAGES ADVICE
//   move ADDR PAGES NEW NEWPAGES | leave ADDR PAGES NEW (MREMAP_DONTUNMAP) | resize ADDR PAGES NEW
//   fill ADDR PAGES SEED | zero ADDR PAGES | poke ADDR BYTE | peek ADDR PAGES | sysread ADDR BYTES
//   brk PAGES -> the old break | stack PAGES -> the lowest address touched
//   scribble ADDR PAGES [THREADS] | calm       threads (1) that write at full speed
//   recvmsg ADDR BYTES | preadv | uring | aio | vfork ADDR PAGES SEED   who else writes there
//   lock ADDR PAGES | bind ADDR PAGES (to memory node 0) | punch PAGE PAGES (of FILE)
//   fork | reap | uffd ADDR PAGES (registers it with an own userfaultfd) | truncate PAGES BYTES
//   exec | exit
// A command that touches what is not there is answered with EFAULT.
#include <alloca.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "testdata/targets/trk_io.h"

namespace {

sigjmp_buf fault_exit;
thread_local bool obeying = false;

void OnFault(int signal) {
  if (obeying) siglongjmp(fault_exit, 1);
  std::signal(signal, SIG_DFL);  // Not in a command: a bug.
}

constexpr size_t kPage = 4096;
using Args = unsigned long[4];

char* At(unsigned long address) { return reinterpret_cast<char*>(address); }
long Outcome(bool ok) { return ok ? 0 : -errno; }

// Page i of a fill is a pseudo-random stream of its own.
void FillPage(char* page, uint64_t seed) {
  uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i < kPage; i += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    std::memcpy(page + i, &x, 8);
  }
}

class Puppet {
 public:
  explicit Puppet(const char* file) : file_(open(file, O_RDWR | O_CLOEXEC)) {}

  long Do(const std::string& verb, const Args& a, const char* word, unsigned long offset) {
    if (verb == "map") return Map(a, word, offset);
    if (verb == "unmap") return Outcome(munmap(At(a[0]), a[1] * kPage) == 0);
    if (verb == "protect") return Outcome(mprotect(At(a[0]), a[1] * kPage, a[2]) == 0);
    if (verb == "advise") return Outcome(madvise(At(a[0]), a[1] * kPage, a[2]) == 0);
    if (verb == "move") {
      return Outcome(mremap(At(a[0]), a[1] * kPage, a[3] * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                            At(a[2])) != MAP_FAILED);
    }
    if (verb == "leave") {
      return Outcome(mremap(At(a[0]), a[1] * kPage, a[1] * kPage,
                            MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
                            At(a[2])) != MAP_FAILED);
    }
    if (verb == "resize") {
      return Outcome(mremap(At(a[0]), a[1] * kPage, a[2] * kPage, 0) != MAP_FAILED);
    }
    if (verb == "fill") {
      for (size_t i = 0; i < a[1]; ++i) FillPage(At(a[0]) + i * kPage, a[2] + i);
      return 0;
    }
    if (verb == "zero") return std::memset(At(a[0]), 0, a[1] * kPage), 0;
    if (verb == "poke") return *At(a[0]) = static_cast<char>(a[1]), 0;
    if (verb == "peek") {
      long sum = 0;
      for (size_t i = 0; i < a[1]; ++i) sum += *const_cast<volatile char*>(At(a[0]) + i * kPage);
      return sum & 0xff;
    }
    if (verb == "sysread") {
      const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
      const bool ok = read(fd, At(a[0]), a[1]) == static_cast<ssize_t>(a[1]);
      close(fd);
      return Outcome(ok);
    }
    if (verb == "recvmsg") return Receive(At(a[0]), a[1]);
    if (verb == "preadv") return ScatterRead(At(a[0]), a[1]);
    if (verb == "uring") return Whole(IoRing().Run(IORING_OP_READ, file_, At(a[0]), a[1], 0), a[1]);
    if (verb == "aio") return Whole(AioQueue().Read(file_, At(a[0]), a[1], 0), a[1]);
    if (verb == "vfork") return FillByChild(At(a[0]), a[1], a[2]);
    if (verb == "lock") return Outcome(mlock(At(a[0]), a[1] * kPage) == 0);
    if (verb == "bind") {
      const unsigned long nodes = 1;  // MPOL_BIND, MPOL_MF_MOVE
      return Outcome(syscall(SYS_mbind, At(a[0]), a[1] * kPage, 2, &nodes, 64, 2) == 0);
    }
    if (verb == "punch") {
      return Outcome(fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a[0] * kPage,
                               a[1] * kPage) == 0);
    }
    if (verb == "brk") return reinterpret_cast<long>(sbrk(static_cast<long>(a[0]) * kPage));
    if (verb == "stack") return Stack(a[0]);
    if (verb == "scribble") return Scribble(At(a[0]), a[1], a[2]);
    if (verb == "calm") return Calm();
    if (verb == "fork") return Fork();
    if (verb == "reap") return kill(child_, SIGKILL), Outcome(waitpid(child_, nullptr, 0) > 0);
    if (verb == "uffd") return RegisterOwn(a);
    if (verb == "truncate") return Outcome(ftruncate(file_, a[0] * kPage + a[1]) == 0);
    errno = ENOSYS;
    return -ENOSYS;
  }

 private:
  long Map(const Args& a, const std::string& kind, unsigned long offset) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
    if (kind == "shared") flags = MAP_SHARED | MAP_ANONYMOUS;
    if (kind == "file") flags = MAP_PRIVATE, fd = file_;
    if (kind == "sharedfile") flags = MAP_SHARED, fd = file_;
    if (kind == "noreserve") flags |= MAP_NORESERVE;
    if (kind == "zero") flags = MAP_PRIVATE, fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    if (kind == "memfd" || kind == "privatememfd") {
      fd = static_cast<int>(syscall(SYS_memfd_create, "puppet", 1));
      flags = kind == "memfd" ? MAP_SHARED : MAP_PRIVATE;
      if (ftruncate(fd, a[1] * kPage) != 0) return -errno;
    }
    if (kind == "huge") flags |= MAP_HUGETLB;
    if (kind == "sharedhuge") flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;
    if (kind == "sysv") {
      const int segment = shmget(IPC_PRIVATE, a[1] * kPage, IPC_CREAT | 0600);
      const bool ok = shmat(segment, At(a[0]), SHM_REMAP) != reinterpret_cast<void*>(-1);
      const int error = errno;
      shmctl(segment, IPC_RMID, nullptr);  // When the last has left.
      return ok ? 0 : -error;
    }
    return Outcome(mmap(At(a[0]), a[1] * kPage, a[2], flags | MAP_FIXED, fd, offset * kPage) !=
                   MAP_FAILED);
  }

  static long Whole(long n, unsigned long bytes) {
    return n < 0 ? n : n == static_cast<long>(bytes) ? 0 : -EIO;
  }
  long ScatterRead(char* to, size_t bytes) {
    const iovec parts[] = {{to, bytes / 2}, {to + bytes / 2, bytes - bytes / 2}};
    return Whole(preadv(file_, parts, 2, 0), bytes);
  }
  long Receive(char* to, size_t bytes) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -errno;
    const std::string data(bytes, 'm');
    iovec part{to, bytes};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    long n = send(ends[0], data.data(), bytes, MSG_DONTWAIT);
    if (n >= 0) n = recvmsg(ends[1], &message, MSG_WAITALL);
    const long result = n < 0 ? -errno : Whole(n, bytes);
    close(ends[0]);
    close(ends[1]);
    return result;
  }
  static long FillByChild(char* to, size_t pages, uint64_t seed) {
    const pid_t child = vfork();
    if (child == 0) {
      for (size_t i = 0; i < pages; ++i) FillPage(to + i * kPage, seed + i);
      _exit(0);
    }
    return Outcome(child > 0 && waitpid(child, nullptr, 0) == child);
  }

  long Stack(size_t pages) {
    char* low = static_cast<char*>(alloca(pages * kPage));
    for (size_t i = pages; i-- > 0;) *const_cast<volatile char*>(low + i * kPage) = 's';
    return reinterpret_cast<long>(low);
  }

  long Scribble(char* start, size_t pages, size_t threads) {
    calm_ = false;
    for (size_t i = 0; i == 0 || i < threads; ++i) {
      scribblers_.emplace_back([this, start, pages, i] {
        uint64_t x = 88172645463325252 + i;
        while (!calm_.load(std::memory_order_relaxed)) {
          x ^= x << 13;
          x ^= x >> 7;
          x ^= x << 17;
          char* page = start + (x >> 20) % pages * kPage;
          std::memcpy(page + (x & 0xff8), &x, 8);
        }
      });
    }
    return 0;
  }
  long Calm() {
    calm_ = true;
    for (std::thread& scribbler : scribblers_) scribbler.join();
    scribblers_.clear();
    return 0;
  }

  long Fork() {
    child_ = fork();
    if (child_ == 0) {
      for (;;) pause();
    }
    return Outcome(child_ > 0);
  }

  long RegisterOwn(const Args& a) {
    uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    uffdio_api api{};
    api.api = UFFD_API;
    if (uffd_ < 0 || ioctl(uffd_, UFFDIO_API, &api) != 0) return -errno;
    uffdio_register request{};
    request.range = {a[0], a[1] * kPage};
    request.mode = UFFDIO_REGISTER_MODE_WP;
    return Outcome(ioctl(uffd_, UFFDIO_REGISTER, &request) == 0);
  }

  const int file_;
  int uffd_ = -1;
  pid_t child_ = 0;
  std::vector<std::thread> scribblers_;
  std::atomic<bool> calm_{true};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int socket = std::atoi(argv[1]);
  std::signal(SIGSEGV, OnFault);
  std::signal(SIGBUS, OnFault);
  Puppet puppet(argv[2]);
  char message[256], verb[32], word[32];
  for (;;) {
    const ssize_t n = recv(socket, message, sizeof message - 1, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(0);
    message[n] = 0;
    Args a{};
    unsigned long offset = 0;
    verb[0] = word[0] = 0;
    if (std::sscanf(message, "map %lx %lx %lx %31s %lx", &a[0], &a[1], &a[2], word, &offset) >= 4) {
      std::strcpy(verb, "map");
    } else {
      std::sscanf(message, "%31s %lx %lx %lx %lx", verb, &a[0], &a[1], &a[2], &a[3]);
    }
    if (std::strcmp(verb, "exit") == 0) _exit(0);
    if (std::strcmp(verb, "exec") == 0) {
      fcntl(socket, F_SETFD, 0);
      execv("/proc/self/exe", argv);
    }
    errno = 0;
    volatile long result = -EFAULT;
    if (sigsetjmp(fault_exit, 1) == 0) {
      obeying = true;
      result = puppet.Do(verb, a, word, offset);
    }
    obeying = false;
    const int length = result < 0 ? std::snprintf(message, sizeof message, "error %ld", -long{result})
                                  : std::snprintf(message, sizeof message, "ok %lx", long{result});
    if (send(socket, message, length, MSG_NOSIGNAL) != length) _exit(0);
  }
}
