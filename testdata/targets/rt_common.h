// What the self-checking runtime targets share: progress as the end-to-end harness reads it (20 digits at
// offset 0 of a file, "BAD <what>" if a check failed, end with status 0 once PROGRESS.stop exists), and
// contents that follow from numbers.
#ifndef INCR_CKPT_TESTDATA_TARGETS_RT_COMMON_H_
#define INCR_CKPT_TESTDATA_TARGETS_RT_COMMON_H_

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

class Progress {
 public:
  explicit Progress(const char* path) : stop_(std::string(path) + ".stop") {
    fd_ = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd_ < 0) _exit(2);
  }
  void Report(uint64_t step) const {
    char text[32];
    const int n = snprintf(text, sizeof text, "%020llu", static_cast<unsigned long long>(step));
    if (pwrite(fd_, text, n, 0) != n) _exit(2);
  }
  [[noreturn]] void Bad(const std::string& what) const {
    const std::string text = "BAD " + what + "                    ";
    if (pwrite(fd_, text.data(), text.size(), 0) < 0) perror("pwrite");
    _exit(3);
  }
  bool StopRequested() const { return access(stop_.c_str(), F_OK) == 0; }

 private:
  int fd_ = -1;
  const std::string stop_;
};

inline uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

#endif  // INCR_CKPT_TESTDATA_TARGETS_RT_COMMON_H_
