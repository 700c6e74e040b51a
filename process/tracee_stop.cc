#include "process/tracee_stop.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr int64_t kMaxSleepNs = 500'000;
constexpr int64_t kReapPatienceUs = 2'000'000;

TraceeStop Classify(int status) {
  const int signal = status & 0xff;
  const int event = status >> 8;
  if (event == PTRACE_EVENT_STOP) return {TraceeStop::kInSignalPath, signal, event};
  if (event != 0) return {TraceeStop::kEvent, signal, event};
  if (signal == (SIGTRAP | 0x80)) return {TraceeStop::kSyscall, SIGTRAP, 0};
  return {TraceeStop::kSignal, signal, 0};
}

struct StatusIds {
  pid_t process = 0;  // Tgid
  pid_t parent = 0;   // of the process
  pid_t tracer = 0;
};

pid_t NumberAfter(const char* text, const char* key) {
  const char* line = std::strstr(text, key);
  return line == nullptr ? 0 : static_cast<pid_t>(std::atoi(line + std::strlen(key)));
}

// False once the thread is gone altogether.
bool ReadStatusIds(pid_t tid, StatusIds* ids) {
  char path[40], text[2048];
  std::snprintf(path, sizeof path, "/proc/%d/status", tid);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = 0;
  *ids = {NumberAfter(text, "\nTgid:"), NumberAfter(text, "\nPPid:"),
          NumberAfter(text, "\nTracerPid:")};
  return true;
}

}  // namespace

void Backoff::Pause() {
  ++rounds_;
  if (!asleep()) {
    sched_yield();
    return;
  }
  const timespec nap{0, sleep_ns_};
  nanosleep(&nap, nullptr);
  sleep_ns_ = std::min(sleep_ns_ * 2, kMaxSleepNs);
}

TraceeStop TakeStop(pid_t tid) {
  for (;;) {
    siginfo_t info;
    info.si_pid = 0;
    // Without WEXITED: an exit is never consumed here, it shows as ECHILD.
    if (waitid(P_PID, tid, &info, WSTOPPED | WNOHANG | __WALL) == 0) {
      if (info.si_pid == 0) return {TraceeStop::kTimedOut};
      return Classify(info.si_status);
    }
    if (errno != EINTR) return {TraceeStop::kGone};
  }
}

TraceeStop WaitForStop(pid_t tid, int64_t deadline_us) {
  Backoff backoff;
  for (int round = 0;; ++round) {
    const TraceeStop stop = TakeStop(tid);
    if (stop.kind != TraceeStop::kTimedOut) return stop;
    if (round % 64 == 63) {
      // An own child that is no tracee any more (another thread's exec took its place) would
      // show as "not yet stopped" for ever. Reading status costs 15 us: not at first.
      if (backoff.asleep() && TracerOf(tid) != gettid()) return {TraceeStop::kGone};
      if (MonotonicMicros() > deadline_us) return {TraceeStop::kTimedOut};
    }
    backoff.Pause();
  }
}

TraceeStop CurrentStop(pid_t tid) {
  siginfo_t info;
  if (ptrace(PTRACE_GETSIGINFO, tid, nullptr, &info) == 0) {
    // Of a stop by a signal this is that signal's own; of the others the code is the status.
    return info.si_code > 0xff || info.si_code == (SIGTRAP | 0x80)
               ? Classify(info.si_code)
               : TraceeStop{TraceeStop::kSignal, info.si_signo};
  }
  return TakeStop(tid);
}

bool TraceeIsGone(pid_t tid) {
  siginfo_t info;
  return waitid(P_PID, tid, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL) != 0 && errno == ECHILD;
}

std::string Describe(const TraceeStop& stop) {
  switch (stop.kind) {
    case TraceeStop::kInSignalPath:
      return absl::StrCat("stopped (signal ", stop.signal, ")");
    case TraceeStop::kSignal:
      return absl::StrCat("stopped to take signal ", stop.signal);
    case TraceeStop::kSyscall:
      return "stopped at a system call";
    case TraceeStop::kEvent:
      return absl::StrCat("stopped by ptrace event ", stop.event);
    case TraceeStop::kGone:
      return "exited";
    case TraceeStop::kTimedOut:
      return "not stopped in time";
  }
  return "unknown";
}

absl::Status PtraceResume(__ptrace_request request, pid_t tid, int signal) {
  if (ptrace(request, tid, nullptr, reinterpret_cast<void*>(static_cast<intptr_t>(signal))) != 0) {
    return ErrnoStatus(absl::StrCat("ptrace(", static_cast<int>(request), ") of thread ", tid));
  }
  return absl::OkStatus();
}

absl::Status AwaitSignalPath(pid_t tid, int64_t deadline_us, TraceeStop* stop,
                             absl::FunctionRef<void()> on_event) {
  for (;;) {
    *stop = WaitForStop(tid, deadline_us);
    switch (stop->kind) {
      case TraceeStop::kInSignalPath:
        return absl::OkStatus();
      case TraceeStop::kGone:
        return absl::NotFoundError(absl::StrCat("thread ", tid, " has exited"));
      case TraceeStop::kTimedOut:
        return absl::DeadlineExceededError(absl::StrCat("thread ", tid, " did not stop"));
      case TraceeStop::kEvent:
        on_event();
        break;
      case TraceeStop::kSignal:
      case TraceeStop::kSyscall:
        break;
    }
    // Any stop swallows the interrupt that was pending (ptrace_stop clears JOBCTL_TRAP_STOP), so
    // ask again. Asked for before the signal goes in, it is taken right after the handler's frame
    // is built. ESRCH: it died, the next wait will tell.
    (void)PtraceResume(PTRACE_INTERRUPT, tid);
    (void)PtraceResume(PTRACE_CONT, tid, stop->kind == TraceeStop::kSignal ? stop->signal : 0);
  }
}

absl::Status ReturnToSignalPath(pid_t tid, int64_t deadline_us, int signal) {
  INCR_RETURN_IF_ERROR(PtraceResume(PTRACE_INTERRUPT, tid));
  INCR_RETURN_IF_ERROR(PtraceResume(PTRACE_CONT, tid, signal));
  TraceeStop stop;
  return AwaitSignalPath(tid, deadline_us, &stop);
}

void ReapDeadTracee(pid_t tid) {
  const int64_t deadline_us = MonotonicMicros() + kReapPatienceUs;
  Backoff backoff;
  StatusIds ids;
  while (ReadStatusIds(tid, &ids) && ids.tracer == gettid()) {
    if (ids.process == tid && ids.parent == getpid()) return;
    siginfo_t info;
    info.si_pid = 0;
    if (waitid(P_PID, tid, &info, WEXITED | WNOHANG | __WALL) != 0 && errno != EINTR) return;
    if (info.si_pid != 0 || MonotonicMicros() > deadline_us) return;
    backoff.Pause();
  }
}

pid_t TracerOf(pid_t tid) {
  StatusIds ids;
  return ReadStatusIds(tid, &ids) ? ids.tracer : -1;
}

}  // namespace incr
