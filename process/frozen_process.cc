#include "process/frozen_process.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "process/freezer.h"
#include "process/tracee_stop.h"

namespace incr {
namespace {

constexpr int64_t kStopPatienceUs = 2'000'000;

absl::Status StopAndDetach(pid_t tid) {
  INCR_RETURN_IF_ERROR(PtraceResume(PTRACE_INTERRUPT, tid));
  TraceeStop stop;
  INCR_RETURN_IF_ERROR(AwaitSignalPath(tid, MonotonicMicros() + kStopPatienceUs, &stop));
  return PtraceResume(PTRACE_DETACH, tid);
}

}  // namespace

absl::StatusOr<FrozenProcess> FrozenProcess::Freeze(const ProcessHandle& process,
                                                    int64_t patience_us) {
  Freezer freezer(process, patience_us);
  const absl::Status status = freezer.Freeze();
  if (!status.ok()) {
    freezer.Detach();
    if (process.alive()) return status;
    return absl::NotFoundError(absl::StrCat("pid ", process.pid(), " has exited"));
  }
  FrozenProcess frozen = Adopt(process, freezer.Tids());
  frozen.was_group_stopped_ = freezer.group_stopped();
  frozen.since_us_ = freezer.since_us();
  return frozen;
}

FrozenProcess FrozenProcess::Adopt(const ProcessHandle& process, std::vector<pid_t> tids) {
  FrozenProcess frozen;
  frozen.process_ = &process;
  frozen.tids_ = std::move(tids);
  return frozen;
}

FrozenProcess::FrozenProcess(FrozenProcess&& other) noexcept
    : process_(other.process_),
      tids_(std::exchange(other.tids_, {})),
      was_group_stopped_(other.was_group_stopped_),
      since_us_(other.since_us_) {}

FrozenProcess::~FrozenProcess() { (void)Release(); }

absl::Status FrozenProcess::Thaw() && { return Release(); }

absl::Status FrozenProcess::Release() {
  absl::Status result;
  std::vector<pid_t> dead;
  for (const pid_t tid : tids_) {
    absl::Status status = PtraceResume(PTRACE_DETACH, tid);
    // ESRCH says dead, but also: not at rest, which an error in mid-call may leave behind.
    if (absl::IsNotFound(status) && !TraceeIsGone(tid)) status = StopAndDetach(tid);
    if (absl::IsNotFound(status)) {
      dead.push_back(tid);
    } else {
      result.Update(status);
    }
  }
  tids_.clear();
  // The leader, first of all, cannot be reaped while another thread is left.
  for (auto tid = dead.rbegin(); tid != dead.rend(); ++tid) ReapDeadTracee(*tid);
  return result;
}

}  // namespace incr
