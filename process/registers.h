// registers.h — general and extended registers of a ptrace-stopped thread.
// Only from the tracing thread.
#ifndef INCR_CKPT_PROCESS_REGISTERS_H_
#define INCR_CKPT_PROCESS_REGISTERS_H_

#include <sys/types.h>
#include <sys/user.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace incr {

using Registers = user_regs_struct;

absl::StatusOr<Registers> GetRegisters(pid_t tid);                      // NT_PRSTATUS
absl::Status SetRegisters(pid_t tid, const Registers& registers);
absl::StatusOr<std::string> GetXstate(pid_t tid);                       // NT_X86_XSTATE, XSAVE format
absl::Status SetXstate(pid_t tid, const std::string& xstate);           // EINVAL/EFAULT: other CPU features

// What a restored thread must start with: where the thread rests inside an
// interrupted system call (orig_rax >= 0 and rax in ERESTARTSYS, ERESTARTNOINTR,
// ERESTARTNOHAND, ERESTART_RESTARTBLOCK), the call is made again from its
// start: rip -= 2, rax = orig_rax, orig_rax = -1. ERESTART_RESTARTBLOCK calls
// (nanosleep, poll, futex with a relative timeout) start their timeout again: the
// kernel keeps the deadline where nobody can read it. Pure.
Registers RewindInterruptedCall(Registers registers);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_REGISTERS_H_
