#include "restore/open_anon_files.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace incr {
namespace {

// TFD_IOC_SET_TICKS: <linux/timerfd.h> and <sys/timerfd.h> cannot be included together.
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);
constexpr int64_t kNanosPerSecond = 1'000'000'000;

timespec FromNanos(int64_t nanos) {
  return {static_cast<time_t>(nanos / kNanosPerSecond), static_cast<long>(nanos % kNanosPerSecond)};
}

bool IsWallClock(int clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM; }

absl::Status ArmTimer(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  const pb::Timerfd& timer = file.timerfd();
  int flags = 0;
  int64_t value = timer.value_ns();
  const bool absolute =
      (timer.settime_flags() & TFD_TIMER_ABSTIME) != 0 && timer.deadline_ns() > 0;
  if (absolute && IsWallClock(timer.clock())) {
    flags = static_cast<int>(timer.settime_flags()) & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
    value = timer.deadline_ns();
  } else if (absolute) {
    timespec now;
    if (::clock_gettime(timer.clock(), &now) != 0) {
      return builder.RefuseErrno(file, "clock_gettime");
    }
    const int64_t now_ns = now.tv_sec * kNanosPerSecond + now.tv_nsec;
    value = std::clamp<int64_t>(timer.deadline_ns() - now_ns, 1, timer.value_ns());
  }
  const itimerspec spec = {FromNanos(timer.interval_ns()), FromNanos(value)};
  if (::timerfd_settime(fd, flags, &spec, nullptr) != 0) {
    return builder.RefuseErrno(file, "timerfd_settime");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status OpenEventfd(FileBuilder& builder, const pb::OpenFile& file) {
  ScopedFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK |
                               (file.eventfd_semaphore() ? EFD_SEMAPHORE : 0)));
  if (!fd.ok()) return builder.RefuseErrno(file, "eventfd");
  // The kernel itself can raise a counter to 2^64-1, a write cannot.
  const uint64_t count = std::min<uint64_t>(file.eventfd_count(), UINT64_MAX - 1);
  if (count != 0 && ::write(fd.get(), &count, sizeof count) != sizeof count) {
    return builder.RefuseErrno(file, "write(eventfd)");
  }
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenEpoll(FileBuilder& builder, const pb::OpenFile& file) {
  ScopedFd fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!fd.ok()) return builder.RefuseErrno(file, "epoll_create1");
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenSignalfd(FileBuilder& builder, const pb::OpenFile& file) {
  const uint64_t mask = file.signalfd_mask();  // the kernel's 8 bytes, not glibc's 128
  const int flags = O_CLOEXEC | (static_cast<int>(file.flags()) & O_NONBLOCK);
  ScopedFd fd(static_cast<int>(::syscall(SYS_signalfd4, -1, &mask, sizeof mask, flags)));
  if (!fd.ok()) return builder.RefuseErrno(file, "signalfd4");
  return builder.Add(file, std::move(fd));
}

absl::Status OpenTimerfd(FileBuilder& builder, const pb::OpenFile& file) {
  const pb::Timerfd& timer = file.timerfd();
  if (timer.value_ns() < 0 || timer.interval_ns() < 0 || timer.deadline_ns() < 0) {
    return builder.Malformed(file, "has a negative time");
  }
  ScopedFd fd(::timerfd_create(timer.clock(), TFD_CLOEXEC));
  if (!fd.ok()) return builder.RefuseErrno(file, "timerfd_create");
  if (timer.value_ns() != 0) INCR_RETURN_IF_ERROR(ArmTimer(builder, file, fd.get()));
  uint64_t ticks = timer.ticks();  // after settime, which clears them
  if (ticks != 0 && ::ioctl(fd.get(), kSetTicks, &ticks) != 0) {
    return builder.RefuseErrno(file, "TFD_IOC_SET_TICKS");
  }
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

}  // namespace incr
