// Other processes that share memory with this one for a while, threads that come and go, and the
// program's own userfaultfd.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "testdata/targets/trk_torture.h"

namespace torture {
namespace {

// Copy-on-write in both. What the child writes to shared memory, where there is some, goes through the
// gate: nobody stops the child.
[[noreturn]] void Child(Worker& w) {
  on_fault = OnFault::kExitChild;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  close(control_socket);
  Gate gate("freeze");
  for (int rounds = 1 + static_cast<int>(w.random.Pick(12)); rounds > 0; --rounds) {
    usleep(w.random.Pick(4000));
    if (!gate.Enter()) continue;
    const Piece piece = w.Any(6);
    FillPattern(piece.at, piece.bytes(), w.random());
    gate.Leave();
  }
  _exit(0);
}
bool Fork(Worker& w) {
  pid_t& child = w.children[w.random.Pick(2)];
  if (child > 0) {
    if (waitpid(child, nullptr, w.random.OneIn(4) ? 0 : WNOHANG) != child) return false;
    child = 0;
  }
  child = fork();
  if (child == 0) Child(w);
  return child > 0;
}

// The child is this process but for its pid: what it writes it writes here.
bool VFork(Worker& w) {
  const Piece piece = w.Noted(w.Any(4));
  const uint64_t value = w.random();
  on_fault = OnFault::kExitChild;
  const pid_t child = vfork();
  if (child == 0) {
    FillPattern(piece.at, piece.bytes(), value);
    _exit(0);
  }
  on_fault = OnFault::kLeaveOperation;
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

struct Errand {
  Worker* worker;
  Piece piece;
};
void* RunErrand(void* argument) {
  auto& errand = *static_cast<Errand*>(argument);
  on_fault = OnFault::kLeaveOperation;
  if (sigsetjmp(fault_exit, 1) == 0) {
    FillPattern(errand.piece.at, errand.piece.bytes(), 7);
  }
  return nullptr;
}
// A stack, thread-local storage and what the kernel writes when a thread ends.
bool ShortThread(Worker& w) {
  Errand errand{&w, w.Noted(w.Any(4))};
  pthread_t thread;
  if (pthread_create(&thread, nullptr, RunErrand, &errand) != 0) return false;
  return pthread_join(thread, nullptr) == 0;
}

int island_fd = -1;

struct Move {  // struct uffdio_move, 6.8
  uint64_t dst, src, len, mode;
  int64_t moved;
};

void* ServeIsland(void*) {
  alignas(kPage) static char page[kPage];
  uffd_msg message;
  for (uint64_t n = 1;; ++n) {
    if (read(island_fd, &message, sizeof message) != sizeof message) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    const uint64_t at = message.arg.pagefault.address / kPage * kPage;
    if (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
      uffdio_writeprotect unprotect{{at, kPage}, 0};
      ioctl(island_fd, UFFDIO_WRITEPROTECT, &unprotect);
      continue;
    }
    FillPattern(page, kPage, n);
    uffdio_copy copy{at, reinterpret_cast<uint64_t>(page), kPage, 0, 0};
    uffdio_zeropage zero{{at, kPage}, 0, 0};
    const int result = n % 3 == 0 ? ioctl(island_fd, UFFDIO_ZEROPAGE, &zero)
                                  : ioctl(island_fd, UFFDIO_COPY, &copy);
    uffdio_range range{at, kPage};
    if (result != 0) ioctl(island_fd, UFFDIO_WAKE, &range);
  }
}

Piece OnIsland(Worker& w, uint64_t most) {
  const uint64_t at = w.random.Pick(kIslandPages);
  return w.Noted({At(kIsland) + at * kPage, std::min(1 + w.random.Pick(most), kIslandPages - at)});
}
// Only stores of the program itself: a system call that faults here could not be stopped while the
// thread that serves the fault stands still.
bool IslandStore(Worker& w) {
  const Piece piece = OnIsland(w, 6);
  for (uint64_t i = 0; i < piece.pages; ++i) FillPattern(piece.at + i * kPage, 64, w.random());
  return true;
}
bool IslandDrop(Worker& w) {
  const Piece piece = OnIsland(w, 6);
  return madvise(piece.at, piece.bytes(), MADV_DONTNEED) == 0;
}
bool IslandProtect(Worker& w) {
  const Piece piece = OnIsland(w, 10);
  uffdio_writeprotect protect{{reinterpret_cast<uint64_t>(piece.at), piece.bytes()},
                              UFFDIO_WRITEPROTECT_MODE_WP};
  return ioctl(island_fd, UFFDIO_WRITEPROTECT, &protect) == 0;
}
bool IslandMove(Worker& w) {
  const Piece from = w.Own(1), to = OnIsland(w, 1);
  madvise(to.at, to.bytes(), MADV_DONTNEED);
  Move move{reinterpret_cast<uint64_t>(to.at), reinterpret_cast<uint64_t>(from.at), kPage, 0, 0};
  return ioctl(island_fd, _IOWR(0xAA, 0x05, Move), &move) == 0;
}

int OpenUserfaultfd() {
  for (const uint64_t features : {uint64_t{1} << 16 /* MOVE */, uint64_t{0}}) {
    const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api{UFFD_API, features, 0};
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0) return fd;
    close(fd);
  }
  return -1;
}

}  // namespace

void AddProcesses(std::vector<Operation>* all) {
  all->insert(all->end(), {{"fork", 2, Fork}, {"vfork", 2, VFork}, {"short_thread", 2, ShortThread}});
}

void AddUserfaultfd(std::vector<Operation>* all) {
  island_fd = OpenUserfaultfd();
  uffdio_register request{};
  request.range = {kIsland, kIslandPages * kPage};
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  if (mmap(At(kIsland), kIslandPages * kPage, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
      ioctl(island_fd, UFFDIO_REGISTER, &request) != 0) {
    std::perror("trk_torture: userfaultfd");
    std::exit(2);
  }
  pthread_t thread;
  pthread_create(&thread, nullptr, ServeIsland, nullptr);
  all->insert(all->end(), {{"island_store", 5, IslandStore},
                           {"island_drop", 2, IslandDrop},
                           {"island_protect", 2, IslandProtect},
                           {"island_move", 2, IslandMove}});
}

}  // namespace torture
