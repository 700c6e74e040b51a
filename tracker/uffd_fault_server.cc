#include "tracker/uffd_fault_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/fault_point.h"
#include "base/file.h"
#include "base/signals_blocked.h"
#include "base/status.h"
#include "process/userfaultfd.h"

namespace incr {
namespace {

constexpr size_t kPagesAtOnce = 64;
constexpr int kUrgentNice = -20;  // Threads of the target wait for us, while others keep the cores busy.

}  // namespace

absl::StatusOr<std::unique_ptr<UffdFaultServer>> UffdFaultServer::Start(ScopedFd uffd) {
  ScopedFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.ok()) return ErrnoStatus("eventfd");
  INCR_ASSIGN_OR_RETURN(ScopedFd null, OpenFile("/dev/null", O_RDONLY));
  std::unique_ptr<UffdFaultServer> server(
      new UffdFaultServer(std::move(uffd), std::move(stop), std::move(null)));
  const AllSignalsBlocked for_the_thread;
  const int error = ::pthread_create(&server->thread_, nullptr, &Main, server.get());
  if (error != 0) return ErrnoStatus(error, "pthread_create");
  server->running_ = true;
  return server;
}

UffdFaultServer::~UffdFaultServer() {
  if (!running_) return;
  const uint64_t one = 1;
  INCR_CHECK(::write(stop_.get(), &one, sizeof one) == sizeof one);
  ::pthread_join(thread_, nullptr);
}

PageSet UffdFaultServer::TakeDirty() {
  std::vector<uint64_t> pages;
  {
    const absl::MutexLock lock(&mutex_);
    pages.swap(dirty_);
  }
  std::sort(pages.begin(), pages.end());
  PageSet set;
  for (uint64_t page : pages) set.Add({page, 1});
  return set;
}

absl::Status UffdFaultServer::status() const {
  const absl::MutexLock lock(&mutex_);
  return status_;
}

void* UffdFaultServer::Main(void* self) {
  auto* const server = static_cast<UffdFaultServer*>(self);
  (void)::setpriority(PRIO_PROCESS, 0, kUrgentNice);  // Of this thread.
  const absl::Status status = server->ServeUntilStopped();
  if (status.ok()) return nullptr;
  {
    // Before the target can write unnoticed, which is when the descriptor goes.
    const absl::MutexLock lock(&server->mutex_);
    server->status_ = Annotate(status, "the thread that serves write faults gave up");
  }
  // Closes it, while the number remains ours: another thread may be about to use it.
  INCR_CHECK(::dup2(server->null_.get(), server->uffd_.get()) >= 0);
  return nullptr;
}

absl::Status UffdFaultServer::ServeUntilStopped() {
  pollfd waiting[2] = {{uffd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) return ErrnoStatus("poll(userfaultfd)");
    if (waiting[1].revents != 0) return absl::OkStatus();
    if (waiting[0].revents != 0) INCR_RETURN_IF_ERROR(ServeThoseWaiting());
  }
}

absl::Status UffdFaultServer::ServeThoseWaiting() {
  uint64_t pages[kPagesAtOnce];
  INCR_RETURN_IF_ERROR(FaultPoint("tracker.serve_fault"));
  INCR_ASSIGN_OR_RETURN(const size_t count, ReadWriteFaults(uffd_.get(), pages, kPagesAtOnce));
  {
    const absl::MutexLock lock(&mutex_);
    dirty_.insert(dirty_.end(), pages, pages + count);
  }
  for (size_t i = 0; i < count; ++i) INCR_RETURN_IF_ERROR(LetGo(pages[i]));
  return absl::OkStatus();
}

// Of a huge page the kernel splits off this one. Of two threads that wait for the same page each has
// sent a message; the second answer finds nothing to do.
absl::Status UffdFaultServer::LetGo(uint64_t page) {
  const absl::Status status = WriteProtect(uffd_.get(), {page, 1}, /*protect=*/false);
  if (!absl::IsNotFound(status)) return status;
  // Unmapped, moved or unregistered since, or the target has exited: let it try again and see.
  return WakeWriters(uffd_.get(), {page, 1});
}

}  // namespace incr
