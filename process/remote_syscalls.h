// remote_syscalls.h — system calls made by a stopped thread of another process, at
// our wish, with everything put back afterwards.
//
// How: all signals are blocked (PTRACE_SETSIGMASK); rip is pointed at a `syscall`
// instruction that the target already has (in its vdso; never is its code
// written); PTRACE_SYSCALL runs to the entry and the exit stop. No single-step and no
// int3: both force SIGTRAP, which would reset a blocked or ignored SIGTRAP's
// disposition in the target. orig_rax is -1 while injecting so that the kernel does not restart
// what was interrupted. At the end registers and mask are put back,
// PTRACE_INTERRUPT is asked for and the thread continued into that stop: it then rests
// in the signal path again, where the kernel handles rax = -ERESTART* on detach. (From a
// syscall-exit stop with no signal pending it would not, and -512 would leak to the program.)
//
// A seccomp filter does not see the calls where FrozenProcess::Freeze could set
// PTRACE_O_SUSPEND_SECCOMP; syscall user dispatch (Wine) is switched off meanwhile.
//
// Dangerous: if our process dies between two steps the target goes on with foreign
// registers (but not while code started by StartCode runs that puts them back by itself). Hence the tracer is a separate agent process that does nothing else
// (checkpoint/agent.h).
//
// Thread safety: none; the tracing thread only.
#ifndef INCR_CKPT_PROCESS_REMOTE_SYSCALLS_H_
#define INCR_CKPT_PROCESS_REMOTE_SYSCALLS_H_

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "process/process_handle.h"
#include "process/registers.h"
#include "process/remote_addr.h"
#include "process/remote_memory.h"

namespace incr {

// Where in `process` a `syscall` instruction (0f 05) lies: its vdso if it has one,
// else any executable mapping. kNotFound names the pid.
absl::StatusOr<RemoteAddr> FindSyscallInstruction(const ProcessHandle& process);

// The same, where a search found one at `hint` a moment ago, before the process was stopped: one
// read instead of ten calls inside the freeze. Should it have made an exec since then, the search
// is repeated; should other bytes 0f 05 stand there by chance, the injected call fails and harms nothing.
absl::StatusOr<RemoteAddr> ConfirmSyscallInstruction(const ProcessHandle& process,
                                                     const RemoteMemory& memory,
                                                     std::optional<RemoteAddr> hint);

class RemoteSyscalls {
 public:
  // `tid` rests in a ptrace stop of ours, and PTRACE_O_TRACESYSGOOD should be set.
  static absl::StatusOr<RemoteSyscalls> Begin(pid_t tid, RemoteAddr syscall_instruction);

  RemoteSyscalls(RemoteSyscalls&&) noexcept;
  RemoteSyscalls& operator=(RemoteSyscalls&&) = delete;
  ~RemoteSyscalls();  // Error paths: End(), whatever happened.

  // The kernel's raw answer: -4095..-1 is -errno. A Status only if the thread could
  // not be driven (it died: kNotFound; a call that takes over 30 s: kDeadlineExceeded).
  absl::StatusOr<int64_t> Raw(int64_t number, std::array<uint64_t, 6> arguments);

  // As Raw, but -errno becomes a Status "<what> in <tid>: <strerror>".
  template <typename... Args>
  absl::StatusOr<uint64_t> Call(absl::string_view what, int64_t number, Args... arguments) {
    return Checked(what, number, {static_cast<uint64_t>(arguments)...});
  }

  // For calls that create a thread: the new thread is auto-attached
  // (PTRACE_O_TRACECLONE must be set) and its own first stop is consumed. Returns the child tid.
  absl::StatusOr<pid_t> CloneCall(absl::string_view what, int64_t number,
                                  std::array<uint64_t, 6> arguments);

  // Runs code of ours in the target, `size` bytes from `entry`: it starts with the program's
  // registers, must not touch the stack, and may leave only by putting registers and mask back.
  // PauseCode stops it, in the signal path, wherever it is (RequestPause is its first half, so that
  // many threads can stop at the same time); ResumeCode lets it go on from there.
  // PauseCode is kAborted if the code was left: the thread is at rest in the program, and End()
  // has nothing to put back.
  absl::Status StartCode(RemoteAddr entry, size_t size);
  absl::Status RequestPause();
  absl::Status PauseCode();
  absl::Status ResumeCode();
  bool running() const { return running_; }
  bool ended() const { return tid_ == 0; }

  // After a restore has moved the vdso.
  void set_syscall_instruction(RemoteAddr address) { instruction_ = address; }

  // What End() will put back; a restore changes it to the image's registers and mask.
  Registers& saved_registers() { return saved_; }
  uint64_t& saved_signal_mask() { return saved_mask_; }

  pid_t tid() const { return tid_; }

  // Normal path: puts everything back and reports what failed. Idempotent.
  absl::Status End();

 private:
  RemoteSyscalls() = default;
  absl::StatusOr<uint64_t> Checked(absl::string_view what, int64_t number,
                                   std::array<uint64_t, 6> arguments);
  absl::Status RunToExit(int64_t number, const std::array<uint64_t, 6>& arguments,
                         pid_t* new_task);
  absl::Status RunToSyscallStop(pid_t* new_task);
  absl::Status BlockSignals();
  absl::Status RestoreUserDispatch();
  absl::Status CheckStillInCode();

  enum class Where {
    kAtRest,   // where Begin found it and no call was made, or paused in the signal path
    kInCall,   // on the way to a call, in it, or in code of ours
    kAtExit,   // of a call
  };
  struct UserDispatch {  // struct ptrace_sud_config of linux/ptrace.h (6.4+)
    uint64_t mode, selector, offset, length;
  };

  pid_t tid_ = 0;  // 0: ended or moved from
  RemoteAddr instruction_;
  Registers saved_{};
  uint64_t saved_mask_ = 0;
  UserDispatch saved_dispatch_{};  // mode 0: not in use
  bool dispatch_unknown_ = false;  // before 6.4 the kernel does not say
  Where where_ = Where::kAtRest;
  RemoteAddr code_;       // of StartCode
  size_t code_size_ = 0;
  bool blocked_ = false;  // all signals
  bool running_ = false;  // in code of ours, or in a call that took too long
  bool pause_requested_ = false;
};

// A few pages mapped into the target for arguments and results; unmapped by Release
// or the destructor. `syscalls` and `memory` outlive it. Invisible after the freeze.
class RemoteScratch {
 public:
  // At `place` if it is not 0 and nothing is there, else anywhere.
  static absl::StatusOr<RemoteScratch> Map(RemoteSyscalls* syscalls, const RemoteMemory* memory,
                                           size_t bytes, int prot,
                                           RemoteAddr place = RemoteAddr());
  RemoteScratch(RemoteScratch&&) noexcept;
  RemoteScratch& operator=(RemoteScratch&&) = delete;
  ~RemoteScratch();
  RemoteAddr address() const { return address_; }
  size_t size() const { return size_; }
  absl::Status Release();
  absl::Status ReleaseBy(RemoteSyscalls& syscalls);  // by another thread or another Begin()
  void Abandon() { syscalls_ = nullptr; }  // leaves it mapped: somebody may still run in it

 private:
  RemoteScratch() = default;
  RemoteSyscalls* syscalls_ = nullptr;
  RemoteAddr address_;
  size_t size_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_REMOTE_SYSCALLS_H_
