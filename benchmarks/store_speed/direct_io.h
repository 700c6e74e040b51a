// direct_io.h — the disk itself: O_DIRECT by io_uring, 1 MiB at a time, 8 on their way.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_DIRECT_IO_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_DIRECT_IO_H_

#include <liburing.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "store/aligned_buffer.h"

namespace incr::store_speed {

class DirectIo {
 public:
  static constexpr unsigned kDepth = 8;
  static constexpr uint64_t kBytes = 1u << 20;

  DirectIo();
  ~DirectIo();
  // Noise, at [offset, offset + bytes) of `fd`; not synced. `bytes` is rounded up to whole blocks.
  absl::Status Write(int fd, uint64_t offset, uint64_t bytes) { return Move(fd, offset, bytes, true); }
  absl::Status Read(int fd, uint64_t offset, uint64_t bytes) { return Move(fd, offset, bytes, false); }

 private:
  absl::Status Move(int fd, uint64_t offset, uint64_t bytes, bool write);

  AlignedBuffer memory_;
  io_uring ring_;
};

// Bytes a second at which the disk reads these files, past the page cache.
absl::StatusOr<double> RawReadSpeed(const std::vector<std::string>& paths);

// Microseconds, the median, that one block takes at a random place of these files.
absl::StatusOr<double> RawBlockRead(const std::vector<std::string>& paths);

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_DIRECT_IO_H_
