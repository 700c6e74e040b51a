// scoped_fd.h — sole owner of one file descriptor of this process.
#ifndef INCR_CKPT_BASE_SCOPED_FD_H_
#define INCR_CKPT_BASE_SCOPED_FD_H_

#include <unistd.h>

#include <utility>

namespace incr {

// Closes on destruction. Movable, not copyable. Not thread-safe.
class ScopedFd {
 public:
  ScopedFd() = default;
  explicit ScopedFd(int fd) : fd_(fd) {}
  ScopedFd(ScopedFd&& other) noexcept : fd_(other.release()) {}
  ScopedFd& operator=(ScopedFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~ScopedFd() { reset(); }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_SCOPED_FD_H_
