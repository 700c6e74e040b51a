// With uring_writer.cc the only file that includes liburing.
#include "store/uring_reader.h"

#include <liburing.h>
#include <unistd.h>

#include <cerrno>

#include "base/fault_point.h"
#include "base/status.h"

namespace incr {
namespace {

class UringReaderImpl : public UringReader {
 public:
  ~UringReaderImpl() override {
    while (in_flight_ > 0) (void)Wait();
    if (ready_) io_uring_queue_exit(&ring_);
  }

  bool Setup() { return ready_ = io_uring_queue_init(kDepth, &ring_, 0) == 0; }

  bool Start(int fd, uint8_t* to, size_t bytes, uint64_t offset, size_t tag) override {
    io_uring_sqe* sqe = in_flight_ < kDepth && !broken_ ? io_uring_get_sqe(&ring_) : nullptr;
    if (sqe == nullptr) return false;
    io_uring_prep_read(sqe, fd, to, bytes, offset);
    io_uring_sqe_set_data64(sqe, tag);
    for (int refused = 0; refused < 100; ++refused) {
      if (io_uring_submit(&ring_) == 1) {
        ++in_flight_;
        return true;
      }
      ::usleep(1000);
    }
    // Still queued: it would be sent with a later one, when its buffer is somebody else's. So there is no later one.
    broken_ = true;
    return false;
  }

  int in_flight() const override { return in_flight_; }

  Done Wait() override {
    INCR_CHECK(in_flight_ > 0);
    io_uring_cqe* cqe = nullptr;
    int n;
    do {
      n = io_uring_wait_cqe(&ring_, &cqe);
    } while (n == -EINTR || n == -EAGAIN);
    INCR_CHECK(n == 0);  // Without its completion a buffer can never be reused safely.
    const Done done{io_uring_cqe_get_data64(cqe), cqe->res};
    io_uring_cqe_seen(&ring_, cqe);
    --in_flight_;
    return done;
  }

 private:
  io_uring ring_;
  bool ready_ = false;
  bool broken_ = false;
  int in_flight_ = 0;
};

}  // namespace

std::unique_ptr<UringReader> UringReader::Create() {
  if (!FaultPoint("store.no_uring").ok()) return nullptr;
  auto reader = std::make_unique<UringReaderImpl>();
  if (!reader->Setup()) return nullptr;
  return reader;
}

}  // namespace incr
