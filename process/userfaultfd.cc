#include "process/userfaultfd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

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
  if (::ioctl(uffd, UFFDIO_WRITEPROTECT, &request) != 0) {
    return ErrnoStatus(absl::StrFormat("ioctl(UFFDIO_WRITEPROTECT, %x-%x)",
                                       range.first * kPageSize, range.end() * kPageSize));
  }
  return absl::OkStatus();
}

}  // namespace incr
