// thread_state.h — what the kernel keeps for threads and for their process besides
// memory and files, read while everything is stopped.
//
// Read from outside where the kernel allows it; the rest (signal actions, alternate
// stacks, clear_child_tid, brk, interval timers) by remote calls, since no file shows it.
// Tracing thread only.
#ifndef INCR_CKPT_PROCESS_THREAD_STATE_H_
#define INCR_CKPT_PROCESS_THREAD_STATE_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "process/frozen_process.h"
#include "process/registers.h"
#include "process/remote_addr.h"
#include "process/remote_memory.h"

namespace incr {

struct ThreadState {
  pid_t tid = 0;
  std::string comm;
  Registers registers{};  // as stopped; not rewound
  std::string xstate;
  uint64_t signal_mask = 0;
  std::vector<std::string> pending_signals;  // siginfo_t bytes, thread-directed
  uint64_t altstack_sp = 0, altstack_size = 0;
  uint32_t altstack_flags = 0;
  uint64_t clear_child_tid = 0;
  uint64_t robust_list = 0, robust_list_size = 0;
  uint64_t rseq = 0;
  uint32_t rseq_size = 0, rseq_signature = 0;
  int nice = 0;
  uint32_t sched_policy = 0, sched_priority = 0;
  std::string cpu_affinity;  // as sched_getaffinity fills it
  uint32_t parent_death_signal = 0;
  uint64_t timer_slack_ns = 0;
};

struct KernelSigaction {  // the kernel's own layout on x86-64 (rt_sigaction)
  uint64_t handler, flags, restorer, mask;
};

struct SharedState {  // of the process
  KernelSigaction actions[64];               // [signal - 1]
  std::vector<std::string> pending_signals;  // siginfo_t bytes, process-directed
  uint64_t brk = 0;
  struct Timer {
    int64_t value_us = 0, interval_us = 0;
  } interval_timers[3];  // by ITIMER_*
  bool child_subreaper = false;
  uint32_t dumpable = 0;
  bool has_posix_timers = false;  // /proc/<pid>/timers is not empty
  bool may_have_children = true;  // false: waitid() has said so; zombies and tracees count as well
};

struct FrozenState {
  std::vector<ThreadState> threads;  // leader first
  SharedState shared;
  RemoteAddr scratch;  // where the pages for remote calls were
};

// Both are wishes.
struct InjectionPlan {
  std::optional<RemoteAddr> syscall;  // see ConfirmSyscallInstruction
  RemoteAddr scratch;                 // where the pages shall be mapped; 0: wherever the kernel likes
};

// What can be read from outside: registers, xstate, masks, robust list, rseq, scheduling.
absl::StatusOr<FrozenState> CaptureOuterState(FrozenProcess& frozen);

// Fills in the part that needs remote calls. While it runs, and no longer, the target has a mapping more, state->scratch, which others that read its maps would see,
// and a thread that runs may have its rseq area written by the kernel.
absl::Status CaptureInjectedState(FrozenProcess& frozen, const InjectionPlan& plan,
                                  FrozenState* state);
// For tests: both modes must find the same.
enum class BatchMode;
absl::Status CaptureInjectedState(FrozenProcess& frozen, BatchMode mode, FrozenState* state);

// Fills in the pending signals. Last of all, after the calls and the descriptors: a timer that expires in
// the freeze is either still running when it is asked for, or its signal is there afterwards; so it is with
// data that arrive and the signal that says so.
absl::Status CapturePendingSignals(FrozenProcess& frozen, FrozenState* state);

// Makes the target create a userfaultfd, takes our own descriptor of it, closes the
// target's. `features` are UFFD_FEATURE_*; UFFDIO_API has been called on the result. kPermissionDenied: asked
// for write faults to be served by us (PAGEFAULT_FLAG_WP, not WP_ASYNC), but the target may have no
// userfaultfd that hears of the kernel's writes on its behalf.
absl::StatusOr<ScopedFd> CreateRemoteUserfaultfd(FrozenProcess& frozen, uint64_t features);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_THREAD_STATE_H_
