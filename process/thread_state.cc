#include "process/thread_state.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "process/kernel_abi.h"
#include "process/remote_batch.h"
#include "process/remote_syscalls.h"
#include "process/state_queries.h"
#include "process/userfaultfd.h"

namespace incr {
namespace {

absl::Status ThreadError(absl::string_view what, pid_t tid) {
  return ErrnoStatus(absl::StrCat("reading the ", what, " of thread ", tid));
}

absl::StatusOr<std::vector<std::string>> PendingSignals(pid_t tid, uint32_t flags) {
  constexpr int kBatch = 64;
  siginfo_t infos[kBatch];
  std::vector<std::string> pending;
  for (;;) {
    __ptrace_peeksiginfo_args arguments{};
    arguments.off = pending.size();
    arguments.flags = flags;
    arguments.nr = kBatch;
    const long n = ptrace(PTRACE_PEEKSIGINFO, tid, &arguments, infos);
    if (n < 0) return ThreadError("pending signals", tid);
    if (n == 0) return pending;
    for (long i = 0; i < n; ++i) {
      pending.emplace_back(reinterpret_cast<const char*>(&infos[i]), sizeof infos[i]);
    }
  }
}

absl::Status CaptureScheduling(ThreadState* thread) {
  const pid_t tid = thread->tid;
  errno = 0;
  thread->nice = getpriority(PRIO_PROCESS, static_cast<id_t>(tid));
  if (errno != 0) return ThreadError("priority", tid);
  const int policy = sched_getscheduler(tid);
  sched_param parameters{};
  if (policy < 0 || sched_getparam(tid, &parameters) != 0) {
    return ThreadError("scheduling policy", tid);
  }
  thread->sched_policy = static_cast<uint32_t>(policy);
  thread->sched_priority = static_cast<uint32_t>(parameters.sched_priority);
  // The raw call says how many bytes it filled in.
  thread->cpu_affinity.resize(1024);
  const long size = syscall(SYS_sched_getaffinity, tid, thread->cpu_affinity.size(),
                            thread->cpu_affinity.data());
  if (size < 0) return ThreadError("CPU affinity", tid);
  thread->cpu_affinity.resize(static_cast<size_t>(size));
  return absl::OkStatus();
}

absl::Status CaptureThread(ThreadState* thread) {
  const pid_t tid = thread->tid;
  INCR_ASSIGN_OR_RETURN(thread->registers, GetRegisters(tid));
  INCR_ASSIGN_OR_RETURN(thread->xstate, GetXstate(tid));
  // Inside sigsuspend and its like the kernel answers with the mask that the call will put back.
  if (ptrace(PTRACE_GETSIGMASK, tid, sizeof thread->signal_mask, &thread->signal_mask) != 0) {
    return ThreadError("signal mask", tid);
  }
  if (syscall(SYS_get_robust_list, tid, &thread->robust_list, &thread->robust_list_size) != 0) {
    return ThreadError("robust list", tid);
  }
  __ptrace_rseq_configuration area{};
  if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof area, &area) > 0) {
    thread->rseq = area.rseq_abi_pointer;
    thread->rseq_size = area.rseq_abi_size;
    thread->rseq_signature = area.signature;
  }  // else: a kernel without rseq
  return CaptureScheduling(thread);
}

// Closes the target's descriptor on every path.
absl::StatusOr<ScopedFd> CreateAndTake(const ProcessHandle& process, RemoteSyscalls& calls,
                                       bool user_mode_will_do) {
  constexpr uint64_t kFlags = O_CLOEXEC | O_NONBLOCK;
  INCR_ASSIGN_OR_RETURN(int64_t fd, calls.Raw(SYS_userfaultfd, {kFlags}));
  // Unprivileged targets may only have one for faults from user mode.
  if (fd == -EPERM && user_mode_will_do) {
    INCR_ASSIGN_OR_RETURN(fd, calls.Raw(SYS_userfaultfd, {kFlags | UFFD_USER_MODE_ONLY}));
  }
  if (fd == -EPERM && !user_mode_will_do) {
    return absl::PermissionDeniedError(absl::StrCat(
        "userfaultfd in ", calls.tid(), ": it may have none that serves the kernel's own writes, such as "
        "read(2) into its memory (it has no CAP_SYS_PTRACE, and vm.unprivileged_userfaultfd is 0)"));
  }
  if (fd < 0) {
    return ErrnoStatus(static_cast<int>(-fd), absl::StrCat("userfaultfd in ", calls.tid()));
  }
  auto ours = process.DuplicateFd(static_cast<int>(fd));
  INCR_RETURN_IF_ERROR(calls.Call("close(userfaultfd)", SYS_close, fd));
  return ours;
}

absl::Status AskInside(FrozenProcess& frozen, const InjectionPlan& plan, BatchMode mode,
                       FrozenState* state) {
  std::vector<ThreadBatch> batches = PlanStateQueries(frozen.tids());
  INCR_ASSIGN_OR_RETURN(const std::string answers,
                        RunRemoteBatches(frozen, plan, StateAnswerBytes(batches.size()), mode,
                                         &batches, &state->scratch));
  return ReadStateAnswers(batches, answers, state);
}

}  // namespace

absl::Status CaptureInjectedState(FrozenProcess& frozen, const InjectionPlan& plan,
                                  FrozenState* state) {
  return AskInside(frozen, plan, BatchMode::kFastIfAllowed, state);
}

absl::Status CaptureInjectedState(FrozenProcess& frozen, BatchMode mode, FrozenState* state) {
  return AskInside(frozen, {}, mode, state);
}

absl::Status CapturePendingSignals(FrozenProcess& frozen, FrozenState* state) {
  for (ThreadState& thread : state->threads) {
    INCR_ASSIGN_OR_RETURN(thread.pending_signals, PendingSignals(thread.tid, 0));
  }
  INCR_ASSIGN_OR_RETURN(state->shared.pending_signals,
                        PendingSignals(frozen.tids()[0], PTRACE_PEEKSIGINFO_SHARED));
  return absl::OkStatus();
}

absl::StatusOr<FrozenState> CaptureOuterState(FrozenProcess& frozen) {
  FrozenState state;
  for (const pid_t tid : frozen.tids()) {
    state.threads.emplace_back().tid = tid;
    INCR_RETURN_IF_ERROR(CaptureThread(&state.threads.back()));
  }
  SharedState& shared = state.shared;
  INCR_ASSIGN_OR_RETURN(const std::string timers,
                        ReadWholeFile(frozen.process().ProcPath("timers")));
  shared.has_posix_timers = !timers.empty();
  return state;
}

absl::StatusOr<ScopedFd> CreateRemoteUserfaultfd(FrozenProcess& frozen, uint64_t features) {
  INCR_ASSIGN_OR_RETURN(const RemoteAddr instruction, FindSyscallInstruction(frozen.process()));
  INCR_ASSIGN_OR_RETURN(RemoteSyscalls calls,
                        RemoteSyscalls::Begin(frozen.tids()[0], instruction));
  // Where we serve faults, a read(2) into an armed page that finds nobody would fail with EFAULT.
  // WP_ASYNC faults are the kernel's own.
  const bool served = (features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) != 0 &&
                      (features & UFFD_FEATURE_WP_ASYNC) == 0;
  INCR_ASSIGN_OR_RETURN(ScopedFd uffd, CreateAndTake(frozen.process(), calls, !served));
  INCR_RETURN_IF_ERROR(calls.End());
  INCR_RETURN_IF_ERROR(AgreeOnFeatures(uffd.get(), features));
  return uffd;
}

}  // namespace incr
