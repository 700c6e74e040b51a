// trk_io.h — reads by io_uring and by AIO (io_submit), with nothing but system calls.
// Buffers are not registered: those would be pinned, and writes to them pass write protection by.
#ifndef INCR_CKPT_TESTDATA_TARGETS_TRK_IO_H_
#define INCR_CKPT_TESTDATA_TARGETS_TRK_IO_H_

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>

class IoRing {
 public:
  IoRing();  // check ok()
  IoRing(const IoRing&) = delete;
  ~IoRing();
  bool ok() const { return fd_ >= 0; }
  // Submits one and waits for it: bytes, or -errno. `opcode`: IORING_OP_READ, IORING_OP_RECV.
  int Run(int opcode, int fd, void* to, size_t bytes, uint64_t offset);

 private:
  unsigned* Word(int area, unsigned at) { return reinterpret_cast<unsigned*>(areas_[area] + at); }

  io_uring_params p_{};
  int fd_ = -1;
  char* areas_[3] = {};  // submissions, completions, entries
  size_t bytes_[3] = {};
};

class AioQueue {
 public:
  AioQueue();
  AioQueue(const AioQueue&) = delete;
  ~AioQueue();
  bool ok() const { return context_ != 0; }
  long Read(int fd, void* to, size_t bytes, uint64_t offset);

 private:
  unsigned long context_ = 0;
};

#endif  // INCR_CKPT_TESTDATA_TARGETS_TRK_IO_H_
