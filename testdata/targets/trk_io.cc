#include "testdata/targets/trk_io.h"

#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

IoRing::IoRing() : fd_(static_cast<int>(syscall(SYS_io_uring_setup, 4, &p_))) {
  if (fd_ < 0) return;
  bytes_[0] = p_.sq_off.array + p_.sq_entries * 4;
  bytes_[1] = p_.cq_off.cqes + p_.cq_entries * sizeof(io_uring_cqe);
  bytes_[2] = p_.sq_entries * sizeof(io_uring_sqe);
  constexpr off_t kWhere[] = {IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES};
  for (int i = 0; i < 3; ++i) {
    void* at = mmap(nullptr, bytes_[i], PROT_READ | PROT_WRITE, MAP_SHARED, fd_, kWhere[i]);
    if (at == MAP_FAILED) {
      close(fd_);
      fd_ = -1;
      return;
    }
    areas_[i] = static_cast<char*>(at);
  }
}

IoRing::~IoRing() {
  for (int i = 0; i < 3; ++i) {
    if (areas_[i] != nullptr) munmap(areas_[i], bytes_[i]);
  }
  if (fd_ >= 0) close(fd_);
}

int IoRing::Run(int opcode, int fd, void* to, size_t bytes, uint64_t offset) {
  unsigned* tail = Word(0, p_.sq_off.tail);
  const unsigned slot = *tail & *Word(0, p_.sq_off.ring_mask);
  io_uring_sqe sqe{};
  sqe.opcode = opcode;
  sqe.fd = fd;
  sqe.addr = reinterpret_cast<uint64_t>(to);
  sqe.len = bytes;
  sqe.off = offset;
  reinterpret_cast<io_uring_sqe*>(areas_[2])[slot] = sqe;
  Word(0, p_.sq_off.array)[slot] = slot;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  unsigned* head = Word(1, p_.cq_off.head);
  for (unsigned to_submit = 1; *head == __atomic_load_n(Word(1, p_.cq_off.tail), __ATOMIC_ACQUIRE);) {
    const long n = syscall(SYS_io_uring_enter, fd_, to_submit, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
    if (n < 0 && errno != EINTR) return -errno;
    if (n > 0) to_submit = 0;
  }
  const auto* results = reinterpret_cast<io_uring_cqe*>(areas_[1] + p_.cq_off.cqes);
  const int result = results[*head & *Word(1, p_.cq_off.ring_mask)].res;
  __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
  return result;
}

AioQueue::AioQueue() {
  if (syscall(SYS_io_setup, 4, &context_) != 0) context_ = 0;
}
AioQueue::~AioQueue() {
  if (context_ != 0) syscall(SYS_io_destroy, context_);
}

long AioQueue::Read(int fd, void* to, size_t bytes, uint64_t offset) {
  iocb request{};
  request.aio_lio_opcode = IOCB_CMD_PREAD;
  request.aio_fildes = fd;
  request.aio_buf = reinterpret_cast<uint64_t>(to);
  request.aio_nbytes = bytes;
  request.aio_offset = static_cast<int64_t>(offset);
  iocb* list[] = {&request};
  if (syscall(SYS_io_submit, context_, 1, list) != 1) return -errno;
  io_event event{};
  while (syscall(SYS_io_getevents, context_, 1, 1, &event, nullptr) < 0) {
    if (errno != EINTR) return -errno;
  }
  return static_cast<long>(event.res);
}
