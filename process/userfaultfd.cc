#include "process/userfaultfd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;

}  // namespace

absl::StatusOr<ScopedFd> NewUserfaultfd(uint64_t features) {
  ScopedFd uffd(static_cast<int>(::syscall(SYS_userfaultfd, kFlags)));
  if (!uffd.ok()) {
    const absl::Status refused = ErrnoStatus("userfaultfd()");
    auto device = OpenFile("/dev/userfaultfd", O_RDWR);
    if (!device.ok()) return refused;
    uffd.reset(::ioctl(device->get(), _IO(0xAA, 0x00), kFlags));
    if (!uffd.ok()) return ErrnoStatus("ioctl(/dev/userfaultfd, USERFAULTFD_IOC_NEW)");
  }
  INCR_RETURN_IF_ERROR(AgreeOnFeatures(uffd.get(), features));
  return uffd;
}

absl::StatusOr<ScopedFd> NewUserModeUserfaultfd(uint64_t features) {
  absl::StatusOr<ScopedFd> privileged = NewUserfaultfd(features);
  if (!absl::IsPermissionDenied(privileged.status())) return privileged;
  ScopedFd uffd(static_cast<int>(::syscall(SYS_userfaultfd, kFlags | UFFD_USER_MODE_ONLY)));
  if (!uffd.ok()) return privileged;
  INCR_RETURN_IF_ERROR(AgreeOnFeatures(uffd.get(), features));
  return uffd;
}

absl::Status AgreeOnFeatures(int uffd, uint64_t features) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(uffd, UFFDIO_API, &api) != 0) {
    return ErrnoStatus(absl::StrFormat("ioctl(UFFDIO_API, features %#x)", features));
  }
  return absl::OkStatus();
}

absl::Status RegisterWriteProtect(int uffd, PageRange range) {
  uffdio_register request{};
  request.range = {range.first * kPageSize, range.count * kPageSize};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(uffd, UFFDIO_REGISTER, &request) != 0) {
    if (errno == EBUSY) return absl::AlreadyExistsError("another userfaultfd has it");
    return ErrnoStatus(absl::StrFormat("ioctl(UFFDIO_REGISTER, %x-%x)", range.first * kPageSize,
                                       range.end() * kPageSize));
  }
  return absl::OkStatus();
}

absl::Status WriteProtect(int uffd, PageRange range, bool protect) {
  uffdio_writeprotect request{};
  request.range = {range.first * kPageSize, range.count * kPageSize};
  request.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  int result;
  do {  // EAGAIN: its mappings are being changed, which takes no longer than a system call.
    result = ::ioctl(uffd, UFFDIO_WRITEPROTECT, &request);
  } while (result != 0 && errno == EAGAIN);
  if (result != 0) {
    return ErrnoStatus(absl::StrFormat("ioctl(UFFDIO_WRITEPROTECT, %x-%x)",
                                       range.first * kPageSize, range.end() * kPageSize));
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> ReadWriteFaults(int uffd, uint64_t* pages, size_t capacity) {
  uffd_msg messages[64];
  ssize_t n;
  do {
    n = ::read(uffd, messages, std::min(capacity, std::size(messages)) * sizeof messages[0]);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return 0;  // Woken, or interrupted, before we came.
  if (n < 0) return ErrnoStatus("read(userfaultfd)");
  if (n == 0 || n % sizeof messages[0] != 0) {
    return absl::InternalError(absl::StrFormat("read(userfaultfd): %d bytes", n));
  }
  const size_t count = n / sizeof messages[0];
  for (size_t i = 0; i < count; ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) {
      return absl::InternalError(
          absl::StrFormat("read(userfaultfd): event %#x, not asked for", messages[i].event));
    }
    pages[i] = messages[i].arg.pagefault.address / kPageSize;
  }
  return count;
}

absl::Status WakeWriters(int uffd, PageRange range) {
  uffdio_range request{range.first * kPageSize, range.count * kPageSize};
  if (::ioctl(uffd, UFFDIO_WAKE, &request) != 0) return ErrnoStatus("ioctl(UFFDIO_WAKE)");
  return absl::OkStatus();
}

absl::StatusOr<bool> IsRegistered(int uffd, uint64_t page) {
  uffdio_zeropage request{};
  request.range = {page * kPageSize, kPageSize};
  request.mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  int result;
  do {
    result = ::ioctl(uffd, UFFDIO_ZEROPAGE, &request);
  } while (result != 0 && errno == EAGAIN);
  // Done: a page that the kernel has dropped since (MADV_FREE), which read as zeros then too.
  // EFAULT: the page lies beyond the end of its file, as all of /dev/zero does.
  if (result == 0 || errno == EEXIST || errno == EFAULT) return true;
  if (errno == ENOENT || errno == EINVAL) return false;
  return ErrnoStatus(absl::StrFormat("ioctl(UFFDIO_ZEROPAGE, %x)", page * kPageSize));
}

}  // namespace incr
