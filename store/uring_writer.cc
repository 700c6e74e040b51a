// The only file that includes liburing.
#include "store/uring_writer.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/aligned_buffer.h"

namespace incr {
namespace {

// pwrite; a file system that refuses O_DIRECT says so by EINVAL, here or already at open.
absl::Status WritePlainly(FileIo io, int fd, const uint8_t* data, size_t bytes, uint64_t offset,
                          const std::string& path) {
  absl::Status status = io.PwriteExactly(fd, data, bytes, offset, path);
  if (absl::IsInvalidArgument(status)) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_DIRECT) && ::fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0) {
      status = io.PwriteExactly(fd, data, bytes, offset, path);
    }
  }
  return status;
}

class UringWriterImpl : public UringWriter {
 public:
  explicit UringWriterImpl(FileIo io) : io_(io), memory_(kBuffers * kBufferBytes) {}
  ~UringWriterImpl() override {
    (void)Drain();
    StopRing();
  }
  bool ok() const { return memory_.data() != nullptr; }

  uint8_t* TakeBuffer() override {
    for (;;) {
      for (int i = 0; i < kBuffers; ++i) {
        if (writes_[i].state != State::kFree) continue;
        writes_[i].state = State::kTaken;
        return memory_.data() + i * kBufferBytes;
      }
      INCR_CHECK(in_flight_ > 0);
      Reap();
    }
  }

  void ReturnBuffer(uint8_t* buffer) override { writes_[IndexOf(buffer)].state = State::kFree; }

  void Start(int fd, uint8_t* buffer, size_t bytes, uint64_t offset,
             const std::string& path) override {
    if (!probed_) StartRing();
    if (!ring_ok_) return WriteNow(fd, buffer, bytes, offset, path);
    if (absl::Status fault = FaultPoint("store.pack_write"); !fault.ok()) {
      Fail(fault);
      return ReturnBuffer(buffer);
    }
    const int i = IndexOf(buffer);
    writes_[i] = {State::kInFlight, fd, bytes, offset, path};
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    INCR_CHECK(sqe != nullptr);  // The ring has an entry per buffer.
    if (registered_) {
      io_uring_prep_write_fixed(sqe, fd, buffer, bytes, offset, i);
    } else {
      io_uring_prep_write(sqe, fd, buffer, bytes, offset);
    }
    io_uring_sqe_set_data64(sqe, i);
    ++in_flight_;
    SubmitAll();
  }

  void WriteNow(int fd, uint8_t* buffer, size_t bytes, uint64_t offset,
                const std::string& path) override {
    absl::Status status = FaultPoint("store.pack_write");
    if (status.ok()) status = WritePlainly(io_, fd, buffer, bytes, offset, path);
    if (!status.ok()) Fail(status);
    ReturnBuffer(buffer);
  }

  absl::Status Drain() override {
    while (in_flight_ > 0) Reap();
    return std::exchange(error_, absl::OkStatus());
  }

  absl::Status error() const override { return error_; }

  std::string method() const override {
    if (!probed_) return "";
    if (!ring_ok_) return "pwrite";
    return registered_ ? "io_uring, registered buffers" : "io_uring";
  }

 private:
  enum class State { kFree, kTaken, kInFlight };
  struct Write {
    State state = State::kFree;
    int fd = -1;
    size_t bytes = 0;
    uint64_t offset = 0;
    std::string path;
  };

  int IndexOf(const uint8_t* buffer) const { return (buffer - memory_.data()) / kBufferBytes; }
  void Fail(const absl::Status& status) {
    if (error_.ok()) error_ = status;
  }

  void StartRing() {
    probed_ = true;
    // A faulty disk judges call by call.
    if (io_.faults() != nullptr || !FaultPoint("store.no_uring").ok()) return;
    ring_ok_ = io_uring_queue_init(kBuffers, &ring_, 0) == 0;
    if (!ring_ok_ || !FaultPoint("store.no_registered_buffers").ok()) return;
    iovec buffers[kBuffers];
    for (int i = 0; i < kBuffers; ++i) {
      buffers[i] = {memory_.data() + i * kBufferBytes, kBufferBytes};
    }
    registered_ = io_uring_register_buffers(&ring_, buffers, kBuffers) == 0;
  }

  void StopRing() {
    if (ring_ok_) io_uring_queue_exit(&ring_);
    ring_ok_ = registered_ = false;
  }

  // An entry once queued must be submitted: it would otherwise go out with a later
  // one, when its buffer already holds something else.
  void SubmitAll() {
    for (int refused = 0; io_uring_sq_ready(&ring_) > 0;) {
      const int n = io_uring_submit(&ring_);
      if (n > 0 || n == -EINTR) continue;
      const bool short_of_requests = n == -EAGAIN || n == -EBUSY || n == 0;
      if (short_of_requests && ReapReady()) continue;
      if (!short_of_requests || ++refused > 100) return AbandonRing();
      ::usleep(1000);
    }
  }

  // Closing the ring waits for nothing that was never submitted: those go by pwrite.
  void AbandonRing() {
    const unsigned queued = io_uring_sq_ready(&ring_);
    while (in_flight_ > static_cast<int>(queued)) {
      if (!WaitOne()) break;
    }
    StopRing();
    for (Write& write : writes_) {
      if (write.state == State::kInFlight) Complete(&write - writes_, -EAGAIN);
    }
  }

  bool ReapReady() {
    io_uring_cqe* cqe;
    if (io_uring_peek_cqe(&ring_, &cqe) != 0) return false;
    Take(cqe);
    return true;
  }

  bool WaitOne() {
    io_uring_cqe* cqe;
    int n;
    do {
      n = io_uring_wait_cqe(&ring_, &cqe);
    } while (n == -EINTR || n == -EAGAIN);
    if (n != 0) return false;
    Take(cqe);
    return true;
  }

  void Reap() {
    if (!ring_ok_ || !WaitOne()) {
      // Without its completion a buffer can never be reused safely.
      INCR_CHECK(!"io_uring lost a completion");
    }
  }

  void Take(io_uring_cqe* cqe) {
    const int i = static_cast<int>(io_uring_cqe_get_data64(cqe));
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    Complete(i, result);
  }

  // Three ends: all written, less than asked (the rest by pwrite), an error.
  void Complete(int i, int result) {
    Write& write = writes_[i];
    INCR_CHECK(write.state == State::kInFlight);
    const bool again = result == -EAGAIN || result == -EINTR || result == -ECANCELED ||
                       result == -EINVAL || result == -EOPNOTSUPP;
    if (result < 0 && !again) {
      Fail(ErrnoStatus(-result, absl::StrCat("write(", write.path, ")")));
    } else if (again || static_cast<size_t>(result) < write.bytes) {
      const size_t done = again ? 0 : result / 512 * 512;
      const absl::Status status =
          WritePlainly(io_, write.fd, memory_.data() + i * kBufferBytes + done, write.bytes - done,
                       write.offset + done, write.path);
      if (!status.ok()) Fail(status);
    }
    write.state = State::kFree;
    --in_flight_;
  }

  const FileIo io_;
  AlignedBuffer memory_;
  Write writes_[kBuffers];
  int in_flight_ = 0;
  absl::Status error_;
  bool probed_ = false, ring_ok_ = false, registered_ = false;
  io_uring ring_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<UringWriter>> UringWriter::Create(FileIo io) {
  auto writer = std::make_unique<UringWriterImpl>(io);
  if (!writer->ok()) return absl::ResourceExhaustedError("no memory for pack buffers");
  return writer;
}

}  // namespace incr
