#include "process/registers.h"

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

// The kernel's own codes; user space never sees them.
constexpr int64_t kRestartSys = -512;
constexpr int64_t kRestartNoIntr = -513;
constexpr int64_t kRestartNoHand = -514;
constexpr int64_t kRestartBlock = -516;
constexpr size_t kSyscallInstructionSize = 2;  // 0f 05
constexpr size_t kFirstXstateSize = 16384;     // AVX-512 needs 2.7 KiB, AMX 11 KiB

absl::Status RegisterError(const char* what, pid_t tid) {
  return ErrnoStatus(absl::StrCat(what, " of thread ", tid));
}

}  // namespace

absl::StatusOr<Registers> GetRegisters(pid_t tid) {
  Registers registers;
  if (ptrace(PTRACE_GETREGS, tid, nullptr, &registers) != 0) {
    return RegisterError("reading the registers", tid);
  }
  return registers;
}

absl::Status SetRegisters(pid_t tid, const Registers& registers) {
  if (ptrace(PTRACE_SETREGS, tid, nullptr, &registers) != 0) {
    return RegisterError("setting the registers", tid);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> GetXstate(pid_t tid) {
  for (size_t size = kFirstXstateSize;; size *= 2) {
    std::string xstate(size, '\0');
    iovec area{xstate.data(), xstate.size()};
    if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &area) != 0) {
      return RegisterError("reading the extended registers", tid);
    }
    if (area.iov_len == size) continue;  // may have been cut
    xstate.resize(area.iov_len);
    return xstate;
  }
}

absl::Status SetXstate(pid_t tid, const std::string& xstate) {
  iovec area{const_cast<char*>(xstate.data()), xstate.size()};
  if (ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &area) != 0) {
    return RegisterError("setting the extended registers", tid);
  }
  return absl::OkStatus();
}

Registers RewindInterruptedCall(Registers registers) {
  if (static_cast<int64_t>(registers.orig_rax) < 0) return registers;
  switch (static_cast<int64_t>(registers.rax)) {
    case kRestartSys:
    case kRestartNoIntr:
    case kRestartNoHand:
    case kRestartBlock:
      registers.rip -= kSyscallInstructionSize;
      registers.rax = registers.orig_rax;
      registers.orig_rax = static_cast<uint64_t>(-1);
      break;
    default:
      break;
  }
  return registers;
}

}  // namespace incr
