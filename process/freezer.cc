#include "process/freezer.h"

#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "process/invisible_stop.h"
#include "process/tracee_stop.h"

namespace incr {
namespace {

constexpr uintptr_t kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;
constexpr int64_t kSliceUs = 20'000;
constexpr int64_t kLeaderPatienceUs = 500'000;
constexpr int64_t kRefusalPatienceUs = 100'000;
constexpr int64_t kDetachPatienceUs = 1'000'000;

// 'R', 'S', 'Z'...; '?' once the thread is gone.
char StateOf(const ProcessHandle& process, pid_t tid) {
  const auto text = ReadWholeFile(process.ProcPath(absl::StrCat("task/", tid, "/stat")));
  if (!text.ok()) return '?';
  const size_t name_end = text->rfind(')');
  return name_end == std::string::npos || name_end + 2 >= text->size() ? '?'
                                                                       : (*text)[name_end + 2];
}

}  // namespace

Freezer::Freezer(const ProcessHandle& process, int64_t patience_us)
    : process_(process),
      patience_us_(patience_us),
      deadline_us_(MonotonicMicros() + patience_us) {}

absl::Status Freezer::TimedOut(pid_t tid) const {
  return absl::DeadlineExceededError(absl::StrCat(
      "thread ", tid, " of pid ", process_.pid(), " did not stop within ", patience_us_ / 1000,
      " ms (state ", std::string(1, StateOf(process_, tid)),
      "): it sleeps where no signal reaches it, as while a vfork child runs or a disk is slow"));
}

absl::Status Freezer::Exited() const {
  return absl::NotFoundError(absl::StrCat("pid ", process_.pid(), " has exited"));
}

absl::Status Freezer::Freeze() {
  for (bool lost = true; lost;) {
    INCR_RETURN_IF_ERROR(StopAll());
    INCR_RETURN_IF_ERROR(Prepare(&lost));
  }
  return absl::OkStatus();
}

// A pass that finds nobody new, made while everybody known rests, has seen everybody: only a
// thread that runs can create another, or make readdir skip one by exiting, and such a
// thread would itself be listed.
absl::Status Freezer::StopAll() {
  for (bool found_new = true; found_new;) {
    found_new = false;
    INCR_RETURN_IF_ERROR(SeizeNew(&found_new));
    // AwaitStop adds and removes entries; one added behind us waits for the next pass.
    for (auto next = tracees_.begin(); next != tracees_.end();) {
      const pid_t tid = next->first;
      if (!next->second.stopped) {
        found_new = true;
        INCR_RETURN_IF_ERROR(AwaitStop(tid));
      }
      next = tracees_.upper_bound(tid);
    }
    if (tracees_.empty() && !process_.alive()) return Exited();
    if (found_new && EverybodyRests()) break;
    if (found_new && MonotonicMicros() > deadline_us_) {
      return absl::DeadlineExceededError(
          absl::StrCat("pid ", process_.pid(), " changes its threads faster than they stop"));
    }
  }
  INCR_RETURN_IF_ERROR(DismissStrangers());
  return tracees_.contains(process_.pid()) ? absl::OkStatus() : Exited();
}

// The pass that finds nobody new, in one call instead of five. A count that is right by chance (an
// exec has put another thread in a tracee's place) shows in Prepare().
bool Freezer::EverybodyRests() const {
  struct stat task {};
  if (stat(process_.ProcPath("task").c_str(), &task) != 0) return false;
  if (task.st_nlink != tracees_.size() + 2) return false;
  return std::all_of(tracees_.begin(), tracees_.end(),
                     [](const auto& tracee) { return tracee.second.stopped; });
}

// All get their interrupt before any is waited for: the moments at which they stop lie close.
absl::Status Freezer::SeizeNew(bool* found_new) {
  INCR_ASSIGN_OR_RETURN(const std::vector<pid_t> tids, ListThreads(process_));
  for (const pid_t tid : tids) {
    if (tracees_.contains(tid)) continue;
    if (!watch_ && tids.size() > 1) watch_.emplace(process_.pid());
    if (watch_) watch_->Enter();
    const long result = ptrace(PTRACE_SEIZE, tid, nullptr, reinterpret_cast<void*>(kOptions));
    const int error = errno;
    if (watch_) watch_->Leave();
    if (result != 0) {
      INCR_RETURN_IF_ERROR(ExplainRefusal(tid, error, found_new));
      continue;
    }
    *found_new = true;
    tracees_[tid] = {};
    if (since_us_ == 0) since_us_ = MonotonicMicros();
    (void)PtraceResume(PTRACE_INTERRUPT, tid);  // ESRCH: the wait will tell
  }
  return absl::OkStatus();
}

absl::Status Freezer::ExplainRefusal(pid_t tid, int error, bool* found_new) {
  const char state = error == ESRCH ? '?' : StateOf(process_, tid);
  const bool leader = tid == process_.pid();
  switch (state) {
    case '?':  // it has exited; whom it created comes with the next pass
      *found_new = true;
      return absl::OkStatus();
    case 'Z':
    case 'X':
      if (leader) *found_new = true;
      return leader ? WaitForNewLeader() : absl::OkStatus();
    default:
      break;
  }
  const std::string name = absl::StrCat("thread ", tid, " of pid ", process_.pid());
  const pid_t tracer = TracerOf(tid);
  if (tracer == gettid()) {
    // PTRACE_O_TRACECLONE was faster; or an exec has given this tid to a thread that we knew by
    // another, and which may be at rest already.
    *found_new = true;
    tracees_[tid].stopped = CurrentStop(tid).kind == TraceeStop::kInSignalPath;
    if (!tracees_[tid].stopped) (void)PtraceResume(PTRACE_INTERRUPT, tid);
    return absl::OkStatus();
  }
  if (tracer > 0) {
    return absl::FailedPreconditionError(absl::StrCat(name, " is being traced by pid ", tracer));
  }
  // In mid-exec the answer is EPERM and the reason gone when we look for it.
  const int64_t now_us = MonotonicMicros();
  if (refused_since_us_ == 0) refused_since_us_ = now_us;
  if (now_us - refused_since_us_ > kRefusalPatienceUs) {
    return ErrnoStatus(error, absl::StrCat("attaching to ", name));
  }
  *found_new = true;
  usleep(100);
  return absl::OkStatus();
}

// The leader is a zombie. Either the process ends; or another thread makes an exec and takes its
// place in a moment; or its main thread called pthread_exit.
absl::Status Freezer::WaitForNewLeader() {
  ReapKilled(process_.pid());
  if (!process_.alive()) return Exited();
  const int64_t now_us = MonotonicMicros();
  if (leaderless_since_us_ == 0) leaderless_since_us_ = now_us;
  if (now_us - leaderless_since_us_ > kLeaderPatienceUs) {
    return absl::FailedPreconditionError(absl::StrCat(
        "pid ", process_.pid(), " has lost its main thread, which is not supported"));
  }
  usleep(500);
  return absl::OkStatus();
}

// Afterwards `tid` rests in the signal path, or is no longer among the tracees.
absl::Status Freezer::AwaitStop(pid_t tid) {
  TraceeStop stop;
  absl::Status status;
  do {
    status = AwaitSignalPath(tid, std::min(deadline_us_, MonotonicMicros() + kSliceUs), &stop,
                             [&] { NoteNewTask(tid); });
    if (!absl::IsDeadlineExceeded(status)) break;
    if (MonotonicMicros() > deadline_us_) return TimedOut(tid);
    if (CurrentStop(tid).kind == TraceeStop::kInSignalPath) {
      status = absl::OkStatus();  // its stop was taken when it had another tid
      break;
    }
    // A thread in exec cannot stop before the others, which it killed, have been reaped.
    ReapKilled(tid);
  } while (tracees_.contains(tid));
  if (!status.ok()) {
    if (tid != process_.pid()) ReapDeadTracee(tid);
    tracees_.erase(tid);
    return absl::OkStatus();
  }
  tracees_[tid].stopped = true;
  group_stopped_ |= stop.signal != SIGTRAP;
  return absl::OkStatus();
}

// Threads at rest that were killed since. The leader is reaped last, by Detach or its parent.
void Freezer::ReapKilled(pid_t except) {
  for (auto next = tracees_.begin(); next != tracees_.end();) {
    const auto [tid, tracee] = *next++;
    if (tid == except || tid == process_.pid() || !tracee.stopped || !TraceeIsGone(tid)) continue;
    ReapDeadTracee(tid);
    tracees_.erase(tid);
  }
}

// `parent` has just made a task, which PTRACE_O_TRACECLONE attached to us.
void Freezer::NoteNewTask(pid_t parent) {
  unsigned long task = 0;
  if (ptrace(PTRACE_GETEVENTMSG, parent, nullptr, &task) != 0 || task == 0) return;
  const pid_t tid = static_cast<pid_t>(task);
  if (access(process_.ProcPath(absl::StrCat("task/", tid)).c_str(), F_OK) == 0) {
    tracees_.try_emplace(tid);
  } else {
    // A process made by clone() with another exit signal than SIGCHLD; or a thread already dead.
    strangers_.push_back(tid);
  }
}

// Threads that PTRACE_O_TRACECLONE attached and whose creator died before it could say so.
void Freezer::AdoptAttached() {
  const auto tids = ListThreads(process_);
  if (!tids.ok()) return;
  for (const pid_t tid : *tids) {
    if (tid != process_.pid() && !stuck_.contains(tid) && TracerOf(tid) == gettid()) {
      tracees_.try_emplace(tid);
    }
  }
}

absl::Status Freezer::DismissStrangers() {
  while (!strangers_.empty()) {
    const pid_t tid = strangers_.back();
    const TraceeStop stop = WaitForStop(tid, deadline_us_);
    if (stop.kind == TraceeStop::kTimedOut) return TimedOut(tid);
    strangers_.pop_back();
    const int signal = stop.kind == TraceeStop::kSignal ? stop.signal : 0;
    if (!PtraceResume(PTRACE_DETACH, tid, signal).ok()) ReapDeadTracee(tid);
  }
  return absl::OkStatus();
}

// `lost`: a tracee was not at rest after all. It died, or an exec has given its tid to another.
absl::Status Freezer::Prepare(bool* lost) {
  *lost = false;
  for (auto next = tracees_.begin(); next != tracees_.end();) {
    const pid_t tid = (next++)->first;
    absl::Status status = AllowInjection(tid);
    if (status.ok()) status = HideStopFromProgram(tid);
    if (absl::IsNotFound(status)) {
      *lost = true;
      tracees_.erase(tid);
      if (tid != process_.pid() && TraceeIsGone(tid)) ReapDeadTracee(tid);
    } else if (!status.ok()) {
      return status;
    }
  }
  return *lost && !process_.alive() ? Exited() : absl::OkStatus();
}

// Only now that the thread rests: while it ran, its filter was in force.
absl::Status Freezer::AllowInjection(pid_t tid) {
  constexpr uintptr_t kWithSeccomp = kOptions | PTRACE_O_SUSPEND_SECCOMP;
  if (ptrace(PTRACE_SETOPTIONS, tid, nullptr, reinterpret_cast<void*>(kWithSeccomp)) == 0) {
    return absl::OkStatus();
  }
  if (errno == ESRCH) return ErrnoStatus(ESRCH, absl::StrCat("ptrace of thread ", tid));
  const auto status = ReadWholeFile(process_.ProcPath(absl::StrCat("task/", tid, "/status")));
  if (status.ok() && !absl::StrContains(*status, "\nSeccomp:\t0")) {
    return absl::PermissionDeniedError(
        absl::StrCat("thread ", tid, " of pid ", process_.pid(),
                     " has a seccomp filter, and suspending it needs CAP_SYS_ADMIN"));
  }
  return absl::OkStatus();
}

void Freezer::Detach() {
  do {
    for (const auto& [tid, tracee] : tracees_) {
      int signal = 0;
      if (!tracee.stopped) {
        // A little longer for those that were just about to stop. A thread that does not stop
        // cannot be detached at all; it stays ours until this thread exits.
        const TraceeStop stop = WaitForStop(tid, MonotonicMicros() + kDetachPatienceUs);
        if (stop.kind == TraceeStop::kTimedOut) {
          stuck_.insert(tid);
          continue;
        }
        if (stop.kind == TraceeStop::kEvent) NoteNewTask(tid);  // strangers only, see below
        if (stop.kind == TraceeStop::kSignal) signal = stop.signal;
      }
      // The leader cannot be reaped before every other thread.
      if (!PtraceResume(PTRACE_DETACH, tid, signal).ok() && tid != process_.pid()) {
        ReapDeadTracee(tid);
      }
    }
    tracees_.clear();
    AdoptAttached();
  } while (!tracees_.empty());
  if (!stuck_.contains(process_.pid())) ReapDeadTracee(process_.pid());
  (void)DismissStrangers();
}

std::vector<pid_t> Freezer::Tids() const {
  std::vector<pid_t> tids{process_.pid()};
  for (const auto& [tid, tracee] : tracees_) {
    if (tid != process_.pid()) tids.push_back(tid);
  }
  return tids;
}

}  // namespace incr
