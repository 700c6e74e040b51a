// interrupted_call.h — how a thread that was stopped inside a system call goes on in
// another process.
//
// The kernel leaves such a thread with rax = -ERESTART* and orig_rax = the call's number, and
// makes the call again when the thread leaves its signal path. Three cases need more:
//
// * -ERESTART_RESTARTBLOCK (nanosleep, clock_nanosleep, poll, futex, each with a relative
//   timeout; poll also without one) goes on through restart_syscall(2) and a deadline kept inside
//   the kernel, which dies with the process. The call is made anew: its timeout starts again.
// * The second time such a thread is stopped, orig_rax is restart_syscall's own number, and the
//   call's is nowhere. But its arguments are still in their registers: see FindRestartedCall.
// * Where a signal waits for the thread, the kernel must decide between a restart and EINTR
//   (after the handler): then the registers stay as they are, with orig_rax.
//
// Pure but for `read`.
#ifndef INCR_CKPT_CHECKPOINT_INTERRUPTED_CALL_H_
#define INCR_CKPT_CHECKPOINT_INTERRUPTED_CALL_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "process/registers.h"

namespace incr {

// Reads the stopped thread's memory; false if it cannot.
using ReadMemory = absl::FunctionRef<bool(uint64_t address, void* to, size_t size)>;

// The number of the call that restart_syscall stands for, or -1. Evidence, the strongest first:
// `mov $number, %eax` before the `syscall` instruction; in the C library's syscall() function,
// `mov $number, %edi` before the call of it; and that the arguments, with the memory they
// point to, make sense for one of the four calls only. All evidence must fit the arguments.
int64_t FindRestartedCall(const Registers& registers, ReadMemory read);

struct ResumedRegisters {
  Registers registers;
  // The call is not known: the thread sees it fail with EINTR.
  bool call_lost = false;
};

// `signal_waits`: a pending signal that the thread's mask lets through.
ResumedRegisters ReadyToRun(Registers registers, bool signal_waits, ReadMemory read);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_INTERRUPTED_CALL_H_
