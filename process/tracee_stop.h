// tracee_stop.h — waiting for a traced thread, with a deadline, and what its stop means.
// The tracing thread only.
#ifndef INCR_CKPT_PROCESS_TRACEE_STOP_H_
#define INCR_CKPT_PROCESS_TRACEE_STOP_H_

#include <sys/ptrace.h>
#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace incr {

// Waiting without a wake-up call: most answers come within 20 us, but the target may need this
// very CPU, so it yields from the first round on and then sleeps, 5 to 500 us at a time and the thread's timer slack:
// to yield does not always let a thread of lower priority run. (Measured, 2 cores: a sleeping target stops in 14 us,
// in 130 us where 100 spins come first; one that runs on this CPU in 50 us, in 230 us where 200 yields come first.)
class Backoff {
 public:
  void Pause();
  bool asleep() const { return rounds_ > kYields; }

 private:
  static constexpr int kYields = 30;
  int rounds_ = 0;
  int64_t sleep_ns_ = 5'000;
};

struct TraceeStop {
  enum Kind {
    // PTRACE_EVENT_STOP: in the kernel's signal path. `signal` is SIGTRAP, or the stopping
    // signal if the thread is in a job-control stop.
    kInSignalPath,
    kSignal,    // about to be delivered `signal`; resume with it or it is lost
    kSyscall,   // at entry or exit of a system call
    kEvent,     // PTRACE_EVENT_* in `event`
    kGone,      // it exited, or is not our tracee any more
    kTimedOut,  // still running at the deadline
  } kind;
  int signal = 0;
  int event = 0;
};

// Waits for the next stop of `tid`; never reaps an exit. Spins for some microseconds, since most
// stops come in under ten, then sleeps. `deadline_us` is on MonotonicMicros().
TraceeStop WaitForStop(pid_t tid, int64_t deadline_us);

// The same without waiting: kTimedOut if it runs.
TraceeStop TakeStop(pid_t tid);

// The stop it rests in, also if that was taken before; kTimedOut if it runs.
TraceeStop CurrentStop(pid_t tid);

// Whether it has died (or was never ours). Takes no stop and no exit.
bool TraceeIsGone(pid_t tid);

// "stopped by signal 19" and the like, for errors.
std::string Describe(const TraceeStop& stop);

// ptrace(request, tid, 0, signal) for PTRACE_CONT, PTRACE_SYSCALL, PTRACE_INTERRUPT, PTRACE_DETACH.
// kNotFound (ESRCH): the thread died.
absl::Status PtraceResume(__ptrace_request request, pid_t tid, int signal = 0);

// Waits until a thread that was sent PTRACE_INTERRUPT rests in the signal path, where a detach
// restarts an interrupted system call. Other stops met on the way are passed: signals are
// delivered, not lost, and still no instruction of the program runs. `stop` is the last one.
// `on_event` is called at PTRACE_EVENT_*. kNotFound: it died; kDeadlineExceeded: still running.
absl::Status AwaitSignalPath(pid_t tid, int64_t deadline_us, TraceeStop* stop,
                             absl::FunctionRef<void()> on_event = [] {});

// The same for a thread that rests in another stop; `signal` is delivered on the way.
absl::Status ReturnToSignalPath(pid_t tid, int64_t deadline_us, int signal = 0);

// Takes over the exit of a tracee that has died, so that its real parent sees it; waits a moment
// for a death in progress. Does nothing where we are that parent: the status is the owner's.
void ReapDeadTracee(pid_t tid);

// TracerPid of /proc/<tid>/status, 0 if none, -1 if it has exited.
pid_t TracerOf(pid_t tid);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_TRACEE_STOP_H_
