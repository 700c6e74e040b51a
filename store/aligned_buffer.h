// aligned_buffer.h — page-aligned memory of its own mapping, for O_DIRECT.
// Not inherited by fork: a child must not share pages that the kernel is reading.
// Not thread-safe.
#ifndef INCR_CKPT_STORE_ALIGNED_BUFFER_H_
#define INCR_CKPT_STORE_ALIGNED_BUFFER_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace incr {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // data() is null if there is no memory. Contents are zero, untouched pages cost nothing.
  explicit AlignedBuffer(size_t size) : size_(size) {
    void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return;
    ::madvise(p, size, MADV_DONTFORK);
    data_ = static_cast<uint8_t*>(p);
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_ALIGNED_BUFFER_H_
