#include "process/invisible_stop.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>

#include "base/status.h"

namespace incr {
namespace {

constexpr int64_t kRestartNoHand = -514;  // ERESTARTNOHAND, the kernel's own
constexpr uint64_t kRseqCsOffset = 8;     // offsetof(struct rseq, rseq_cs)

template <typename T>
bool Peek(pid_t tid, uint64_t address, T* value) {
  iovec local{value, sizeof *value};
  iovec remote{reinterpret_cast<void*>(address), sizeof *value};
  return process_vm_readv(tid, &local, 1, &remote, 1, 0) == sizeof *value;
}

// Whether `tid` is inside a critical section that the kernel would abort.
bool MustAbort(pid_t tid, const Registers& registers, RseqCriticalSection* section) {
  __ptrace_rseq_configuration area{};
  if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof area, &area) <= 0) return false;
  uint64_t address = 0;
  uint32_t signature = 0;
  return area.rseq_abi_pointer != 0 &&
         Peek(tid, area.rseq_abi_pointer + kRseqCsOffset, &address) && address != 0 &&
         Peek(tid, address, section) && InsideCriticalSection(registers, *section) &&
         // The kernel's own guard against a forged section.
         Peek(tid, section->abort_ip - sizeof signature, &signature) &&
         signature == area.signature;
}

}  // namespace

bool AnsweredEintrForNothing(const Registers& registers) {
  if (static_cast<int64_t>(registers.rax) != -EINTR) return false;
  switch (static_cast<int64_t>(registers.orig_rax)) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
      return static_cast<int32_t>(registers.r10) < 0;
    case SYS_epoll_pwait2:
    case SYS_semtimedop:
      return registers.r10 == 0;
    case SYS_rt_sigtimedwait:
      return registers.rdx == 0;
    case SYS_semop:
      return true;
    default:
      return false;
  }
}

bool InsideCriticalSection(const Registers& registers, const RseqCriticalSection& section) {
  return registers.rip - section.start_ip < section.post_commit_offset;
}

absl::Status HideStopFromProgram(pid_t tid) {
  INCR_ASSIGN_OR_RETURN(Registers registers, GetRegisters(tid));
  RseqCriticalSection section;
  if (AnsweredEintrForNothing(registers)) {
    registers.rax = static_cast<uint64_t>(kRestartNoHand);
  } else if (static_cast<int64_t>(registers.orig_rax) < 0 && MustAbort(tid, registers, &section)) {
    registers.rip = section.abort_ip;
  } else {
    return absl::OkStatus();
  }
  return SetRegisters(tid, registers);
}

}  // namespace incr
