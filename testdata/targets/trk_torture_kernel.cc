// Bytes that the kernel writes into memory on the program's behalf.
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "testdata/targets/trk_io.h"
#include "testdata/targets/trk_torture.h"

namespace torture {

namespace {

// Leftovers of an operation that faulted.
void Drain(int fd) {
  char waste[4096];
  while (read(fd, waste, sizeof waste) > 0) {
  }
}

// Fills the worker's pipe or socket with `bytes`.
uint64_t Supply(Worker& w, int to, int from, uint64_t bytes) {
  char data[4096];
  Drain(from);
  uint64_t sent = 0;
  FillPattern(data, sizeof data, w.random());
  while (sent < bytes) {
    const ssize_t n = write(to, data, std::min<uint64_t>(sizeof data, bytes - sent));
    if (n <= 0) break;
    sent += n;
  }
  return sent;
}

struct Target {
  char* at;
  uint64_t bytes;
};
Target Where(Worker& w) {
  const Piece piece = w.Any(8);
  const uint64_t shift = w.random.OneIn(2) ? w.random.Pick(kPage) : 0;
  const Target target{piece.at + shift, 1 + w.random.Pick(piece.bytes() - shift)};
  w.Note(target.at, target.bytes);
  return target;
}

bool ReadPipe(Worker& w) {
  const Target t = Where(w);
  const uint64_t n = Supply(w, w.pipe_out, w.pipe_in, t.bytes);
  return read(w.pipe_in, t.at, n) > 0;
}
bool ScatterRead(Worker& w) {
  const Target a = Where(w), b = Where(w), c = Where(w);
  const uint64_t n = Supply(w, w.pipe_out, w.pipe_in, a.bytes + b.bytes + c.bytes);
  const iovec parts[] = {{a.at, a.bytes}, {b.at, b.bytes}, {c.at, c.bytes}};
  return n > 0 && readv(w.pipe_in, parts, 3) > 0;
}
// From a pipe's pages straight to memory.
bool VmSplice(Worker& w) {
  const Target t = Where(w);
  Supply(w, w.pipe_out, w.pipe_in, t.bytes);
  const iovec part{t.at, t.bytes};
  return vmsplice(w.pipe_in, &part, 1, SPLICE_F_NONBLOCK) > 0;
}
bool ReceiveMessage(Worker& w) {
  const Target t = Where(w), u = Where(w);
  Supply(w, w.socket_out, w.socket_in, std::min<uint64_t>(t.bytes + u.bytes, 16384));
  iovec parts[] = {{t.at, t.bytes}, {u.at, u.bytes}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  return recvmsg(w.socket_in, &message, MSG_DONTWAIT) > 0;
}
// What the helper sends, when it sends it: perhaps in a freeze.
bool ReceiveFed(Worker& w) {
  const Target t = Where(w);
  pollfd ready{w.fed, POLLIN, 0};
  return poll(&ready, 1, 3) == 1 && recv(w.fed, t.at, t.bytes, MSG_DONTWAIT) > 0;
}
bool ReadFileInto(Worker& w) {
  const Target t = Where(w), u = Where(w);
  const iovec parts[] = {{t.at, t.bytes}, {u.at, u.bytes}};
  return preadv(objects.fds[w.random.Pick(Objects::kCount)], parts, 2, w.random.Pick(40) * 1000) > 0;
}
bool ReadRandom(Worker& w) {
  const Target t = Where(w);
  return read(w.urandom, t.at, std::min<uint64_t>(t.bytes, 8000)) > 0;
}
// Its own memory, through the door for other processes' memory: the bytes come by copy_to_user.
bool ReadOwnMemory(Worker& w) {
  const Target to = Where(w);
  const Piece from = w.Any(8);
  const iovec local{to.at, to.bytes}, remote{from.at, from.bytes()};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) > 0;
}

bool UringRead(Worker& w) {
  const Target t = Where(w);
  if (!w.ring->ok()) return false;
  if (w.random.OneIn(2)) {
    const int fd = objects.fds[w.random.Pick(Objects::kCount)];
    return w.ring->Run(IORING_OP_READ, fd, t.at, t.bytes, w.random.Pick(40) * 1000) > 0;
  }
  if (Supply(w, w.pipe_out, w.pipe_in, t.bytes) == 0) return false;
  return w.ring->Run(IORING_OP_READ, w.pipe_in, t.at, t.bytes, ~uint64_t{0}) > 0;
}
bool UringReceive(Worker& w) {
  const Target t = Where(w);
  if (!w.ring->ok() || Supply(w, w.socket_out, w.socket_in, 4000) == 0) return false;
  return w.ring->Run(IORING_OP_RECV, w.socket_in, t.at, t.bytes, 0) > 0;
}
bool AioRead(Worker& w) {
  const Target t = Where(w);
  const int fd = objects.fds[w.random.Pick(Objects::kCount)];
  return w.aio->ok() && w.aio->Read(fd, t.at, t.bytes, w.random.Pick(40) * 1000) > 0;
}

// By direct memory access, past the page tables: not while pre-copy rounds run.
bool ReadDirect(Worker& w) {
  const Piece piece = w.Noted(w.Any(16));
  if (objects.direct_fd < 0 || !w.rounds_gate.Enter()) return false;
  const bool ok = pread(objects.direct_fd, piece.at, piece.bytes(), w.random.Pick(32) * kPage) > 0;
  w.rounds_gate.Leave();
  return ok;
}

// Results that system calls hand out.
bool SmallResults(Worker& w) {
  const Target t = Where(w);
  switch (w.random.Pick(6)) {
    case 0: return syscall(SYS_getcwd, t.at, t.bytes) > 0;
    case 1: return syscall(SYS_fstat, 0, t.at) == 0 || syscall(SYS_uname, t.at) == 0;
    case 2: return syscall(SYS_getrandom, t.at, std::min<uint64_t>(t.bytes, 300), 0) > 0;
    case 3: return syscall(SYS_getrusage, RUSAGE_SELF, t.at) == 0;
    case 4: return syscall(SYS_mincore, t.at - reinterpret_cast<uint64_t>(t.at) % kPage, kPage, t.at) == 0;
    default: return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, t.at) == 0;
  }
}
bool FutexOperation(Worker& w) {
  const Piece piece = w.Noted(w.Any(1));
  static int elsewhere = 0;
  char* word = piece.at + w.random.Pick(kPage / 4) * 4;
  return syscall(SYS_futex, &elsewhere, FUTEX_WAKE_OP, 1, 1, word,
                 FUTEX_OP(FUTEX_OP_XOR, 0x55, FUTEX_OP_CMP_EQ, 0)) >= 0;
}

// The kernel builds the frame of a signal handler in it.
bool SignalFrame(Worker& w) {
  const Piece piece = w.Noted({w.own() + kSignalOffset, kSignalPages});
  if (w.random.OneIn(8) && mmap(piece.at, piece.bytes(), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return false;
  }
  stack_t stack{}, none{};
  stack.ss_sp = piece.at;
  stack.ss_size = (4 + w.random.Pick(kSignalPages - 3)) * kPage;
  none.ss_flags = SS_DISABLE;
  if (w.random.OneIn(3)) madvise(piece.at, piece.bytes(), MADV_DONTNEED);
  if (sigaltstack(&stack, nullptr) != 0) return false;
  const bool ok = raise(SIGUSR1) == 0;
  sigaltstack(&none, nullptr);
  return ok;
}

}  // namespace

void OpenChannels(Worker& worker, int fed) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) worker.pipe_in = ends[0], worker.pipe_out = ends[1];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0) {
    worker.socket_in = ends[0], worker.socket_out = ends[1];
  }
  worker.fed = fed;
  mmap(worker.own() + kSignalOffset, kSignalPages * kPage, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  worker.urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  worker.ring = new IoRing;  // As long as the program.
  worker.aio = new AioQueue;
  struct sigaction action{};
  action.sa_flags = SA_ONSTACK;
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);
}

void AddKernelWrites(std::vector<Operation>* all) {
  all->insert(all->end(), {{"read_pipe", 6, ReadPipe},
                           {"scatter_read", 4, ScatterRead},
                           {"vmsplice", 2, VmSplice},
                           {"receive_message", 5, ReceiveMessage},
                           {"receive_fed", 3, ReceiveFed},
                           {"read_file", 5, ReadFileInto},
                           {"read_random", 3, ReadRandom},
                           {"read_own_memory", 3, ReadOwnMemory},
                           {"uring_read", 5, UringRead},
                           {"uring_receive", 3, UringReceive},
                           {"aio_read", 4, AioRead},
                           {"read_direct", 4, ReadDirect},
                           {"small_results", 4, SmallResults},
                           {"futex_operation", 3, FutexOperation},
                           {"signal_frame", 3, SignalFrame}});
}

}  // namespace torture
