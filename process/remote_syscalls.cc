#include "process/remote_syscalls.h"

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "process/tracee_stop.h"

namespace incr {
namespace {

constexpr int64_t kCallDeadlineUs = 30'000'000;
constexpr int64_t kEndDeadlineUs = 5'000'000;
constexpr uint64_t kTrapFlag = 0x100;  // a program that single-steps itself
constexpr int kMaxRestarts = 100;
// Linux 6.4; Debian 12's headers lack them.
constexpr int kGetUserDispatch = 0x4211;
constexpr int kSetUserDispatch = 0x4210;

bool IsRestartCode(int64_t result) { return result <= -512 && result >= -516; }

absl::Status GetSignalMask(pid_t tid, uint64_t* mask) {
  if (ptrace(PTRACE_GETSIGMASK, tid, sizeof *mask, mask) != 0) {
    return ErrnoStatus(absl::StrCat("reading the signal mask of thread ", tid));
  }
  return absl::OkStatus();
}

absl::Status SetSignalMask(pid_t tid, uint64_t mask) {
  if (ptrace(PTRACE_SETSIGMASK, tid, sizeof mask, &mask) != 0) {
    return ErrnoStatus(absl::StrCat("setting the signal mask of thread ", tid));
  }
  return absl::OkStatus();
}

// Without PTRACE_O_TRACESYSGOOD a system call stop looks like a SIGTRAP about to be delivered.
bool IsPlainSyscallStop(pid_t tid, const TraceeStop& stop) {
  siginfo_t info;
  return stop.kind == TraceeStop::kSignal && stop.signal == SIGTRAP &&
         ptrace(PTRACE_GETSIGINFO, tid, nullptr, &info) == 0 && info.si_code == SIGTRAP;
}

absl::Status Died(pid_t tid) {
  return absl::NotFoundError(absl::StrCat("thread ", tid, " has exited"));
}

}  // namespace

absl::StatusOr<RemoteSyscalls> RemoteSyscalls::Begin(pid_t tid, RemoteAddr syscall_instruction) {
  RemoteSyscalls calls;
  calls.instruction_ = syscall_instruction;
  INCR_ASSIGN_OR_RETURN(calls.saved_, GetRegisters(tid));
  INCR_RETURN_IF_ERROR(GetSignalMask(tid, &calls.saved_mask_));
  calls.tid_ = tid;  // from here on there is something to put back
  UserDispatch& dispatch = calls.saved_dispatch_;
  if (ptrace(static_cast<__ptrace_request>(kGetUserDispatch), tid, sizeof dispatch, &dispatch) !=
      0) {
    dispatch = {};
    calls.dispatch_unknown_ = true;
  } else if (dispatch.mode != 0) {
    UserDispatch off{};
    if (ptrace(static_cast<__ptrace_request>(kSetUserDispatch), tid, sizeof off, &off) != 0) {
      return ErrnoStatus(absl::StrCat("switching off user dispatch in thread ", tid));
    }
  }
  return calls;
}

RemoteSyscalls::RemoteSyscalls(RemoteSyscalls&& other) noexcept
    : tid_(std::exchange(other.tid_, 0)),
      instruction_(other.instruction_),
      saved_(other.saved_),
      saved_mask_(other.saved_mask_),
      saved_dispatch_(other.saved_dispatch_),
      dispatch_unknown_(other.dispatch_unknown_),
      where_(other.where_),
      code_(other.code_),
      code_size_(other.code_size_),
      blocked_(other.blocked_),
      running_(other.running_),
      pause_requested_(other.pause_requested_) {}

RemoteSyscalls::~RemoteSyscalls() { (void)End(); }

// Resumes until the next entry or exit of a system call.
absl::Status RemoteSyscalls::RunToSyscallStop(pid_t* new_task) {
  const int64_t deadline_us = MonotonicMicros() + kCallDeadlineUs;
  for (int signal = 0;;) {
    INCR_RETURN_IF_ERROR(PtraceResume(PTRACE_SYSCALL, tid_, signal));
    signal = 0;
    const TraceeStop stop = WaitForStop(tid_, deadline_us);
    switch (stop.kind) {
      case TraceeStop::kSyscall:
        return absl::OkStatus();
      case TraceeStop::kInSignalPath:
        break;  // an interrupt left over, or SIGCONT or SIGSTOP told us of: go on
      case TraceeStop::kEvent: {
        unsigned long task = 0;
        if (new_task != nullptr && ptrace(PTRACE_GETEVENTMSG, tid_, nullptr, &task) == 0) {
          *new_task = static_cast<pid_t>(task);
        }
        break;
      }
      case TraceeStop::kSignal:
        if (IsPlainSyscallStop(tid_, stop)) return absl::OkStatus();
        // The one signal that gets past our mask and can be survived. The stop itself takes
        // effect at the thaw.
        if (stop.signal == SIGSYS) {
          return absl::FailedPreconditionError(absl::StrCat(
              "thread ", tid_, " has its system calls turned into signals (syscall user dispatch, as "
              "under Wine), which cannot be switched off from outside before Linux 6.4"));
        }
        if (stop.signal != SIGSTOP) {
          return absl::InternalError(
              absl::StrCat("signal ", stop.signal, " hit thread ", tid_, " in a call of ours"));
        }
        signal = stop.signal;
        break;
      case TraceeStop::kGone:
        return Died(tid_);
      case TraceeStop::kTimedOut:
        running_ = true;
        return absl::DeadlineExceededError(
            absl::StrCat("thread ", tid_, " did not finish a system call in ",
                         kCallDeadlineUs / 1'000'000, " s"));
    }
  }
}

absl::Status RemoteSyscalls::RunToExit(int64_t number, const std::array<uint64_t, 6>& arguments,
                                       pid_t* new_task) {
  if (tid_ == 0) return absl::FailedPreconditionError("a remote call after the end");
  if (running_ || where_ == Where::kInCall) {
    return absl::FailedPreconditionError(
        absl::StrCat("thread ", tid_, " is still busy with a call that failed"));
  }
  Registers registers = saved_;
  registers.rip = instruction_.value();
  registers.rax = static_cast<uint64_t>(number);
  registers.orig_rax = static_cast<uint64_t>(-1);
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  registers.r10 = arguments[3];
  registers.r8 = arguments[4];
  registers.r9 = arguments[5];
  registers.eflags &= ~kTrapFlag;
  INCR_RETURN_IF_ERROR(BlockSignals());
  INCR_RETURN_IF_ERROR(SetRegisters(tid_, registers));
  where_ = Where::kInCall;
  code_size_ = 0;  // left for good
  INCR_RETURN_IF_ERROR(RunToSyscallStop(nullptr));  // the entry
  INCR_RETURN_IF_ERROR(RunToSyscallStop(new_task));
  where_ = Where::kAtExit;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RemoteSyscalls::Raw(int64_t number, std::array<uint64_t, 6> arguments) {
  // A SIGSTOP in mid-call may make it answer "restart me".
  for (int attempt = 0; attempt < kMaxRestarts; ++attempt) {
    INCR_RETURN_IF_ERROR(RunToExit(number, arguments, nullptr));
    INCR_ASSIGN_OR_RETURN(const Registers registers, GetRegisters(tid_));
    const int64_t result = static_cast<int64_t>(registers.rax);
    if (!IsRestartCode(result)) return result;
  }
  return absl::AbortedError(absl::StrCat("system call ", number, " in thread ", tid_,
                                         " was interrupted again and again"));
}

absl::StatusOr<uint64_t> RemoteSyscalls::Checked(absl::string_view what, int64_t number,
                                                 std::array<uint64_t, 6> arguments) {
  auto result = Raw(number, arguments);
  if (!result.ok()) return Annotate(result.status(), what);
  if (*result < 0 && *result >= -4095) {
    return ErrnoStatus(static_cast<int>(-*result), absl::StrCat(what, " in ", tid_));
  }
  return static_cast<uint64_t>(*result);
}

absl::StatusOr<pid_t> RemoteSyscalls::CloneCall(absl::string_view what, int64_t number,
                                                std::array<uint64_t, 6> arguments) {
  pid_t child = 0;
  const absl::Status status = RunToExit(number, arguments, &child);
  if (!status.ok()) return Annotate(status, what);
  INCR_ASSIGN_OR_RETURN(const Registers registers, GetRegisters(tid_));
  const int64_t result = static_cast<int64_t>(registers.rax);
  if (result < 0) return ErrnoStatus(static_cast<int>(-result), absl::StrCat(what, " in ", tid_));
  if (child == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " in ", tid_, ": its new task was not attached (PTRACE_O_TRACECLONE)"));
  }
  const TraceeStop stop = WaitForStop(child, MonotonicMicros() + kCallDeadlineUs);
  if (stop.kind != TraceeStop::kInSignalPath && stop.kind != TraceeStop::kSignal) {
    return absl::InternalError(
        absl::StrCat(what, " in ", tid_, ": its new task ", child, " ", Describe(stop)));
  }
  return child;
}

absl::Status RemoteSyscalls::StartCode(RemoteAddr entry, size_t size) {
  INCR_CHECK(tid_ != 0);
  code_ = entry;
  code_size_ = size;
  Registers registers = saved_;
  registers.rip = entry.value();
  registers.orig_rax = static_cast<uint64_t>(-1);
  registers.eflags &= ~kTrapFlag;
  // In this order, and the reverse in End(): if we die in between, the code puts both back.
  INCR_RETURN_IF_ERROR(SetRegisters(tid_, registers));
  running_ = true;
  where_ = Where::kInCall;
  INCR_RETURN_IF_ERROR(BlockSignals());
  return PtraceResume(PTRACE_CONT, tid_);
}

absl::Status RemoteSyscalls::BlockSignals() {
  if (blocked_) return absl::OkStatus();
  blocked_ = true;
  // A SIGSYS of user dispatch that finds itself blocked takes the program's handler away; one that
  // stops the thread can be dropped.
  constexpr uint64_t kSigsys = uint64_t{1} << (SIGSYS - 1);
  return SetSignalMask(tid_, dispatch_unknown_ ? ~kSigsys : ~uint64_t{0});
}

absl::Status RemoteSyscalls::RequestPause() {
  if (!running_ || pause_requested_) return absl::OkStatus();
  // SIGSTOP or SIGCONT may have stopped it already. An interrupt would then take effect only after
  // the next resume, and so at each turn: the code would never get on.
  const TraceeStop stop = TakeStop(tid_);
  if (stop.kind == TraceeStop::kTimedOut) {
    pause_requested_ = true;
    return PtraceResume(PTRACE_INTERRUPT, tid_);
  }
  if (stop.kind != TraceeStop::kInSignalPath) {
    const int signal = stop.kind == TraceeStop::kSignal ? stop.signal : 0;
    INCR_RETURN_IF_ERROR(ReturnToSignalPath(tid_, MonotonicMicros() + kEndDeadlineUs, signal));
  }
  running_ = false;
  where_ = Where::kAtRest;
  return absl::OkStatus();
}

absl::Status RemoteSyscalls::PauseCode() {
  INCR_RETURN_IF_ERROR(RequestPause());
  if (running_) {
    TraceeStop stop;
    INCR_RETURN_IF_ERROR(AwaitSignalPath(tid_, MonotonicMicros() + kEndDeadlineUs, &stop));
    running_ = false;
    pause_requested_ = false;
    where_ = Where::kAtRest;
  }
  return CheckStillInCode();
}

absl::Status RemoteSyscalls::CheckStillInCode() {
  if (code_size_ == 0) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const Registers registers, GetRegisters(tid_));
  if (registers.rip - code_.value() < code_size_) return absl::OkStatus();
  INCR_RETURN_IF_ERROR(RestoreUserDispatch());
  return absl::AbortedError(absl::StrCat("thread ", std::exchange(tid_, 0),
                                         " went on by itself: nobody came in time"));
}

absl::Status RemoteSyscalls::ResumeCode() {
  running_ = true;
  where_ = Where::kInCall;
  return PtraceResume(PTRACE_CONT, tid_);
}

absl::Status RemoteSyscalls::RestoreUserDispatch() {
  if (saved_dispatch_.mode != 0 &&
      ptrace(static_cast<__ptrace_request>(kSetUserDispatch), tid_, sizeof saved_dispatch_,
             &saved_dispatch_) != 0) {
    return ErrnoStatus(absl::StrCat("switching user dispatch on again in thread ", tid_));
  }
  return absl::OkStatus();
}

absl::Status RemoteSyscalls::End() {
  if (tid_ == 0) return absl::OkStatus();
  const absl::Cleanup ended = [this] { tid_ = 0; };
  if (running_ || code_size_ != 0) {
    const absl::Status status = PauseCode();
    if (absl::IsAborted(status)) return absl::OkStatus();
    INCR_RETURN_IF_ERROR(status);
  }
  INCR_RETURN_IF_ERROR(SetSignalMask(tid_, saved_mask_));
  INCR_RETURN_IF_ERROR(SetRegisters(tid_, saved_));
  INCR_RETURN_IF_ERROR(RestoreUserDispatch());
  if (where_ == Where::kAtRest) return absl::OkStatus();
  return ReturnToSignalPath(tid_, MonotonicMicros() + kEndDeadlineUs);
}

absl::StatusOr<RemoteScratch> RemoteScratch::Map(RemoteSyscalls* syscalls,
                                                 const RemoteMemory* memory, size_t bytes,
                                                 int prot, RemoteAddr place) {
  const size_t size = (bytes + kPageSize - 1) / kPageSize * kPageSize;
  const auto map = [&](uint64_t at, int flags) {
    return syscalls->Call("mmap of scratch memory", SYS_mmap, at, size, prot,
                          MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  };
  auto mapped = map(place.value(), place.value() == 0 ? 0 : MAP_FIXED_NOREPLACE);
  if (absl::IsAlreadyExists(mapped.status())) mapped = map(0, 0);
  INCR_ASSIGN_OR_RETURN(const uint64_t address, mapped);
  RemoteScratch scratch;
  scratch.syscalls_ = syscalls;
  scratch.address_ = RemoteAddr(address);
  scratch.size_ = size;
  return scratch;
}

RemoteScratch::RemoteScratch(RemoteScratch&& other) noexcept
    : syscalls_(std::exchange(other.syscalls_, nullptr)),
      address_(other.address_),
      size_(other.size_) {}

RemoteScratch::~RemoteScratch() { (void)Release(); }

absl::Status RemoteScratch::Release() {
  if (syscalls_ == nullptr) return absl::OkStatus();
  return ReleaseBy(*syscalls_);
}

absl::Status RemoteScratch::ReleaseBy(RemoteSyscalls& syscalls) {
  syscalls_ = nullptr;
  return syscalls.Call("munmap of scratch memory", SYS_munmap, address_.value(), size_).status();
}

}  // namespace incr
