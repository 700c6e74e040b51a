// uring_writer.h — block-aligned buffers to files, several writes at a time.
//
//   buffer = TakeBuffer(); fill it; Start(...buffer...) ... Drain() before fdatasync.
//
// io_uring with registered buffers if the kernel lets us, without registration above
// RLIMIT_MEMLOCK, plain pwrite where there is no io_uring (found by trying). O_DIRECT
// is dropped from a descriptor whose file system refuses it.
//
// An error of a background write comes back from Drain(). Not thread-safe.
#ifndef INCR_CKPT_STORE_URING_WRITER_H_
#define INCR_CKPT_STORE_URING_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "store/file_io.h"

namespace incr {

class UringWriter {
 public:
  static constexpr int kBuffers = 8;
  static constexpr size_t kBufferBytes = 1u << 20;  // 8 MiB in all: the usual RLIMIT_MEMLOCK

  virtual ~UringWriter() = default;  // Waits for what is in flight.
  static absl::StatusOr<std::unique_ptr<UringWriter>> Create(FileIo io = FileIo());

  // Waits until one is free. At most kBuffers - 1 may be taken and not started.
  virtual uint8_t* TakeBuffer() = 0;
  virtual void ReturnBuffer(uint8_t* buffer) = 0;

  // Writes `bytes` (whole blocks) of a taken buffer at `offset`; the buffer goes back by itself.
  // `path` is for messages; `fd` stays open until Drain().
  virtual void Start(int fd, uint8_t* buffer, size_t bytes, uint64_t offset,
                     const std::string& path) = 0;
  // The same at once, by pwrite: a single small segment is not worth a ring.
  virtual void WriteNow(int fd, uint8_t* buffer, size_t bytes, uint64_t offset,
                        const std::string& path) = 0;

  // Waits for all writes; the first error since the last Drain().
  virtual absl::Status Drain() = 0;
  // The first error so far, without waiting.
  virtual absl::Status error() const = 0;
  // "io_uring, registered buffers", "io_uring" or "pwrite"; "" before the first Start().
  virtual std::string method() const = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_URING_WRITER_H_
