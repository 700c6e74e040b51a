// uring_reader.h — whole blocks out of files, past the page cache, several reads at a time.
//
//   Start(...) up to kDepth times; Wait() gives them back, one by one, in any order
//
// Not thread-safe. The destructor waits for what is in flight.
#ifndef INCR_CKPT_STORE_URING_READER_H_
#define INCR_CKPT_STORE_URING_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

namespace incr {

class UringReader {
 public:
  static constexpr int kDepth = 8;

  struct Done {
    size_t tag = 0;
    int64_t result = 0;  // bytes read, or -errno
  };

  virtual ~UringReader() = default;
  // Null: there is no io_uring here.
  static std::unique_ptr<UringReader> Create();

  // `to` and `fd` stay until it is done. False: it was not accepted.
  virtual bool Start(int fd, uint8_t* to, size_t bytes, uint64_t offset, size_t tag) = 0;
  virtual int in_flight() const = 0;
  // REQUIRES: in_flight() > 0
  virtual Done Wait() = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_URING_READER_H_
