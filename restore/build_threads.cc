#include "restore/build_threads.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "process/lingering_id.h"

namespace incr {
namespace {

constexpr uint64_t kRseqCsOffset = 8;  // struct rseq: cpu_id_start, cpu_id, rseq_cs
constexpr size_t kRobustListHeadBytes = 24;
constexpr uint32_t kAltstackFlags = (1u << 31) | SS_DISABLE;  // SS_AUTODISARM; SS_ONSTACK is only told

// Leaves the critical section that the thread was stopped in, if any.
absl::Status AbortRseqSection(const RemoteMemory& memory, const pb::Thread& thread,
                              Registers* registers) {
  const RemoteAddr pointer(thread.rseq() + kRseqCsOffset);
  uint64_t section_address = 0;
  INCR_RETURN_IF_ERROR(memory.Read(pointer, &section_address, sizeof section_address));
  if (section_address == 0) return absl::OkStatus();
  RseqSection section;
  // A stale pointer may lead anywhere; the kernel, too, only clears it then.
  if (memory.Read(RemoteAddr(section_address), &section, sizeof section).ok()) {
    registers->rip = AfterRseqAbort(registers->rip, section);
  }
  section_address = 0;
  return memory.Write(pointer, &section_address, sizeof section_address);
}

absl::Status QueueSignals(Workbench& bench, RemoteSyscalls& syscalls, const pb::Thread& thread) {
  for (const std::string& info : thread.pending_signals()) {
    int signal;
    memcpy(&signal, info.data(), sizeof signal);
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    INCR_RETURN_IF_ERROR(bench.Put(info));
    INCR_RETURN_IF_ERROR(syscalls
                             .Call(absl::StrCat("rt_tgsigqueueinfo(signal ", signal, ")"),
                                   SYS_rt_tgsigqueueinfo, bench.child().pid(), thread.tid(), signal,
                                   bench.arguments().value())
                             .status());
  }
  return absl::OkStatus();
}

absl::Status RestoreAltstack(Workbench& bench, RemoteSyscalls& syscalls, const pb::Thread& thread) {
  stack_t stack{};
  stack.ss_sp = reinterpret_cast<void*>(thread.altstack_sp());
  stack.ss_size = thread.altstack_size();
  stack.ss_flags = static_cast<int>(thread.altstack_flags() & kAltstackFlags);
  if (stack.ss_size == 0) stack.ss_flags = SS_DISABLE;
  if ((stack.ss_flags & SS_DISABLE) != 0) return absl::OkStatus();  // A new thread has none.
  INCR_RETURN_IF_ERROR(bench.Put(&stack, sizeof stack));
  return syscalls.Call("sigaltstack", SYS_sigaltstack, bench.arguments().value(), 0).status();
}

absl::Status RestoreNames(Workbench& bench, RemoteSyscalls& syscalls, const pb::Thread& thread) {
  INCR_RETURN_IF_ERROR(bench.Put(thread.comm().c_str(), thread.comm().size() + 1));
  INCR_RETURN_IF_ERROR(
      syscalls.Call("prctl(PR_SET_NAME)", SYS_prctl, PR_SET_NAME, bench.arguments().value())
          .status());
  INCR_RETURN_IF_ERROR(
      syscalls.Call("prctl(PR_SET_PDEATHSIG)", SYS_prctl, PR_SET_PDEATHSIG,
                    thread.parent_death_signal())
          .status());
  if (thread.timer_slack_ns() == 0) return absl::OkStatus();  // 0 would mean "the default".
  return syscalls
      .Call("prctl(PR_SET_TIMERSLACK)", SYS_prctl, PR_SET_TIMERSLACK, thread.timer_slack_ns())
      .status();
}

absl::Status Restore(Workbench& bench, RemoteSyscalls& syscalls, const pb::Thread& thread) {
  Registers registers;
  memcpy(&registers, thread.registers().data(), sizeof registers);
  INCR_RETURN_IF_ERROR(RestoreNames(bench, syscalls, thread));
  INCR_RETURN_IF_ERROR(RestoreAltstack(bench, syscalls, thread));
  if (thread.robust_list() != 0) {
    INCR_RETURN_IF_ERROR(syscalls
                             .Call("set_robust_list", SYS_set_robust_list, thread.robust_list(),
                                   kRobustListHeadBytes)
                             .status());
  }
  INCR_RETURN_IF_ERROR(
      syscalls.Call("set_tid_address", SYS_set_tid_address, thread.clear_child_tid()).status());
  if (thread.rseq() != 0) {
    INCR_RETURN_IF_ERROR(AbortRseqSection(bench.memory(), thread, &registers));
    INCR_RETURN_IF_ERROR(syscalls
                             .Call("rseq(register)", SYS_rseq, thread.rseq(), thread.rseq_size(), 0,
                                   thread.rseq_signature())
                             .status());
  }
  INCR_RETURN_IF_ERROR(QueueSignals(bench, syscalls, thread));
  INCR_RETURN_IF_ERROR(SetXstate(thread.tid(), thread.xstate()));
  syscalls.saved_registers() = registers;
  syscalls.saved_signal_mask() = thread.signal_mask();
  return absl::OkStatus();
}

void WarnScheduling(const pb::Thread& thread, absl::string_view what, pb::Image* image) {
  image->add_warnings(
      absl::StrCat("thread ", thread.tid(), ": ", what, " is not restored: ", strerror(errno)));
}

}  // namespace

uint64_t AfterRseqAbort(uint64_t rip, const RseqSection& section) {
  return rip - section.start_ip < section.post_commit_offset ? section.abort_ip : rip;
}

absl::Status CreateThreads(Workbench& bench, const pb::Process& process,
                           absl::FunctionRef<void(pid_t)> created) {
  for (int i = 1; i < process.threads_size(); ++i) {
    const pid_t tid = process.threads(i).tid();
    struct {
      clone_args arguments;
      pid_t tid;
    } block{};
    block.arguments.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                            CLONE_SYSVSEM;
    block.arguments.set_tid = bench.arguments().value() + offsetof(decltype(block), tid);
    block.arguments.set_tid_size = 1;
    block.tid = tid;
    INCR_RETURN_IF_ERROR(bench.Put(&block, sizeof block));
    const LingeringId id(tid);
    absl::StatusOr<pid_t> child;
    do {
      child = bench.leader().CloneCall(
          absl::StrCat("clone3(thread ", tid, ")"), SYS_clone3,
          {bench.arguments().value(), sizeof block.arguments, 0, 0, 0, 0});
    } while (absl::IsAlreadyExists(child.status()) && id.ShouldRetry());
    if (absl::IsAlreadyExists(child.status())) {
      return absl::AlreadyExistsError(absl::StrCat("thread id ", tid, " is taken"));
    }
    INCR_RETURN_IF_ERROR(child.status());
    created(*child);
    if (*child != tid) {
      return absl::InternalError(absl::StrCat("thread ", tid, " came to be as ", *child));
    }
  }
  return absl::OkStatus();
}

absl::Status RestoreThread(Workbench& bench, RemoteSyscalls& syscalls, const pb::Thread& thread,
                           pb::Image* image) {
  return Annotate(Restore(bench, syscalls, thread), absl::StrCat("thread ", thread.tid()));
}

absl::Status RestoreOtherThreads(Workbench& bench, const pb::Process& process, pb::Image* image) {
  for (int i = 1; i < process.threads_size(); ++i) {
    const pb::Thread& thread = process.threads(i);
    INCR_ASSIGN_OR_RETURN(RemoteSyscalls syscalls,
                          RemoteSyscalls::Begin(thread.tid(), bench.syscall_instruction()));
    INCR_RETURN_IF_ERROR(RestoreThread(bench, syscalls, thread, image));
    INCR_RETURN_IF_ERROR(
        Annotate(syscalls.End(), absl::StrCat("registers of thread ", thread.tid())));
  }
  return absl::OkStatus();
}

void RestoreScheduling(const pb::Process& process, pb::Image* image) {
  for (const pb::Thread& thread : process.threads()) {
    const pid_t tid = thread.tid();
    if (::setpriority(PRIO_PROCESS, tid, thread.nice()) != 0) {
      WarnScheduling(thread, absl::StrCat("nice ", thread.nice()), image);
    }
    sched_param parameters{};
    parameters.sched_priority = static_cast<int>(thread.sched_priority());
    const int policy = static_cast<int>(thread.sched_policy());
    if (policy != ::sched_getscheduler(tid) || parameters.sched_priority != 0) {
      if (::sched_setscheduler(tid, policy, &parameters) != 0) {
        WarnScheduling(thread, absl::StrCat("scheduling policy ", policy), image);
      }
    }
    if (thread.cpu_affinity().empty()) continue;
    if (::syscall(SYS_sched_setaffinity, tid, thread.cpu_affinity().size(),
                  thread.cpu_affinity().data()) != 0) {
      WarnScheduling(thread, "CPU affinity", image);
    }
  }
}

}  // namespace incr
