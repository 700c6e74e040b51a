#include "benchmarks/store_speed/direct_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>

#include "base/clock.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "benchmarks/store_speed/contender.h"

namespace incr::store_speed {
namespace {

constexpr uint64_t kReserveBytes = 64u << 20;

// The bytes that the store has to write at least, in a file reserved ahead, synced once an epoch.
class RawWrites : public Contender {
 public:
  explicit RawWrites(ScopedFd fd) : fd_(std::move(fd)) {}
  absl::Status Write(const EpochPages& epoch) override {
    const uint64_t bytes = (epoch.payload + kPageSize - 1) / kPageSize * kPageSize;
    if (at_ + bytes > reserved_) {
      reserved_ = at_ + bytes + kReserveBytes;
      if (::fallocate(fd_.get(), 0, 0, reserved_) != 0) return ErrnoStatus("fallocate");
    }
    INCR_RETURN_IF_ERROR(io_.Write(fd_.get(), at_, bytes));
    if (::fdatasync(fd_.get()) != 0) return ErrnoStatus("fdatasync");
    at_ += bytes;
    return absl::OkStatus();
  }

 private:
  DirectIo io_;
  ScopedFd fd_;
  uint64_t at_ = 0, reserved_ = 0;
};

}  // namespace

DirectIo::DirectIo() : memory_(kDepth * kBytes) {
  INCR_CHECK(memory_.data() != nullptr);
  std::mt19937_64 random(1);
  for (uint64_t i = 0; i < kDepth * kBytes; i += 8) {
    const uint64_t noise = random();
    std::memcpy(memory_.data() + i, &noise, 8);
  }
  INCR_CHECK(io_uring_queue_init(kDepth, &ring_, 0) == 0);
}

DirectIo::~DirectIo() { io_uring_queue_exit(&ring_); }

absl::Status DirectIo::Move(int fd, uint64_t offset, uint64_t bytes, bool write) {
  uint64_t sent = 0;
  unsigned in_flight = 0, slot = 0;
  absl::Status error;
  while (sent < bytes || in_flight > 0) {
    while (sent < bytes && in_flight < kDepth) {
      const unsigned n = (std::min(kBytes, bytes - sent) + 4095) / 4096 * 4096;
      uint8_t* buffer = memory_.data() + (slot++ % kDepth) * kBytes;
      io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
      if (write) {
        io_uring_prep_write(sqe, fd, buffer, n, offset + sent);
      } else {
        io_uring_prep_read(sqe, fd, buffer, n, offset + sent);
      }
      sent += n;
      ++in_flight;
    }
    io_uring_submit_and_wait(&ring_, 1);
    io_uring_cqe* cqe;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      if (cqe->res < 0 && error.ok()) error = ErrnoStatus(-cqe->res, write ? "direct write" : "direct read");
      io_uring_cqe_seen(&ring_, cqe);
      --in_flight;
    }
  }
  return error;
}

absl::StatusOr<double> RawReadSpeed(const std::vector<std::string>& paths) {
  DirectIo io;
  uint64_t bytes = 0;
  const Stopwatch time;
  for (const std::string& path : paths) {
    const ScopedFd fd(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    struct stat info;
    if (!fd.ok() || ::fstat(fd.get(), &info) != 0) return ErrnoStatus(path);
    INCR_RETURN_IF_ERROR(io.Read(fd.get(), 0, info.st_size));
    bytes += info.st_size;
  }
  return bytes * 1e6 / std::max<int64_t>(1, time.elapsed_us());
}

absl::StatusOr<double> RawBlockRead(const std::vector<std::string>& paths) {
  constexpr int kReads = 400;
  std::mt19937_64 random(2);
  const AlignedBuffer buffer(kPageSize);
  std::vector<double> took_us;
  while (took_us.size() < kReads) {
    const std::string& path = paths[random() % paths.size()];
    const ScopedFd fd(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    struct stat info;
    if (!fd.ok() || ::fstat(fd.get(), &info) != 0) return ErrnoStatus(path);
    const uint64_t offset = random() % (info.st_size / kPageSize) * kPageSize;
    const auto start = std::chrono::steady_clock::now();
    if (::pread(fd.get(), buffer.data(), kPageSize, offset) != static_cast<ssize_t>(kPageSize)) return ErrnoStatus(path);
    took_us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(took_us.begin(), took_us.end());
  return took_us[kReads / 2];
}

absl::StatusOr<std::unique_ptr<Contender>> NewRawWrites(const std::string& directory) {
  ScopedFd fd(::open((directory + "/raw").c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
  if (!fd.ok()) return ErrnoStatus(directory + "/raw");
  return std::make_unique<RawWrites>(std::move(fd));
}

}  // namespace incr::store_speed
