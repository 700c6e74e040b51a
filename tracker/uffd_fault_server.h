// uffd_fault_server.h — answers the write faults of one target, so that its threads go on, and remembers
// which pages they were.
//
//   a thread of the target                     our thread
//   writes to a protected page, and waits      read(userfaultfd): its page
//                                              the page onto the list
//   goes on, in the write                      UFFDIO_WRITEPROTECT, mode 0: unprotected, woken
//
// First the list, then the page: a page that may be written is on the list or shows as unprotected in
// the pagemap, at any moment.
//
// The target waits for us; so nothing here waits for anything. Our thread takes one lock, which nobody
// holds for longer than to swap a vector, reads no memory of the target and has all signals blocked.
// If an answer fails in a way that is not the target's own doing (its mapping is gone), the userfaultfd is
// closed: the kernel then wakes all who wait, and protects no more. status() tells; whoever relied on
// the list or the bits must begin anew. While this process is stopped (SIGSTOP, a debugger), so is any
// thread of the target that writes to a protected page; if it dies, the kernel closes the userfaultfd.
//
// Thread-safe.
#ifndef INCR_CKPT_TRACKER_UFFD_FAULT_SERVER_H_
#define INCR_CKPT_TRACKER_UFFD_FAULT_SERVER_H_

#include <pthread.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"

namespace incr {

class UffdFaultServer {
 public:
  // Takes the userfaultfd, which is O_NONBLOCK, and closes it in the end.
  static absl::StatusOr<std::unique_ptr<UffdFaultServer>> Start(ScopedFd uffd);
  ~UffdFaultServer();  // Whoever waits goes on, unprotected.
  UffdFaultServer(const UffdFaultServer&) = delete;
  UffdFaultServer& operator=(const UffdFaultServer&) = delete;

  // For ioctls. The number stays ours, but after a failure it is no userfaultfd (ENOTTY).
  int uffd() const { return uffd_.get(); }

  // The pages since the last call.
  PageSet TakeDirty();

  // Not OK: no write has been noticed since some moment before this call.
  absl::Status status() const;

 private:
  UffdFaultServer(ScopedFd uffd, ScopedFd stop, ScopedFd null)
      : uffd_(std::move(uffd)), stop_(std::move(stop)), null_(std::move(null)) {}
  static void* Main(void* self);
  absl::Status ServeUntilStopped();
  absl::Status ServeThoseWaiting();
  absl::Status LetGo(uint64_t page);

  const ScopedFd uffd_;
  const ScopedFd stop_;  // an eventfd: readable when our thread is to end
  const ScopedFd null_;  // to be put in the place of uffd_
  pthread_t thread_{};
  bool running_ = false;

  mutable absl::Mutex mutex_;
  std::vector<uint64_t> dirty_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_UFFD_FAULT_SERVER_H_
