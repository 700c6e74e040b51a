#include "process/stopped_child.h"

#include <dirent.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "process/lingering_id.h"
#include "process/thread_state.h"
#include "process/tracee_stop.h"

namespace incr {
namespace {

constexpr int64_t kStopTimeoutUs = 10'000'000;
constexpr unsigned long kOptions =
    PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;

// <linux/ptrace.h> clashes with <sys/ptrace.h>.
constexpr int kGetRseqConfiguration = 0x420f;
struct RseqConfiguration {
  uint64_t pointer;
  uint32_t size;
  uint32_t signature;
  uint32_t flags;
  uint32_t pad;
};
constexpr int kRseqUnregister = 1;

// The child's whole life of its own.
[[noreturn]] void WaitToBeSeized(pid_t parent) {
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::syscall(SYS_getppid) != parent) ::syscall(SYS_exit_group, 1);  // It died before.
  for (;;) ::syscall(SYS_pause);
}

absl::Status CloneError(pid_t pid) {
  const std::string what = absl::StrCat("clone3(set_tid ", pid, ")");
  if (errno == EEXIST) {
    return absl::AlreadyExistsError(absl::StrCat("pid ", pid, " is taken"));
  }
  if (errno == EPERM) {
    return absl::PermissionDeniedError(
        absl::StrCat(what, ": choosing a pid needs CAP_CHECKPOINT_RESTORE (or root)"));
  }
  return ErrnoStatus(what);
}

// Takes `tid`'s exit if it has come; true if there is nothing to wait for any more.
bool ReapExit(pid_t tid) {
  for (;;) {
    int status = 0;
    const pid_t reaped = ::waitpid(tid, &status, __WALL | WNOHANG);
    if (reaped == 0) return false;
    if (reaped < 0) return errno != EINTR;  // ECHILD: it is gone already.
    if (WIFEXITED(status) || WIFSIGNALED(status)) return true;
  }
}

// Tids of all threads that are not the leader, zombies too; empty once the process is reaped.
std::vector<pid_t> OtherThreads(const ProcessHandle& process) {
  std::vector<pid_t> tids;
  DIR* directory = ::opendir(process.ProcPath("task").c_str());
  if (directory == nullptr) return tids;
  while (const dirent* entry = ::readdir(directory)) {
    pid_t tid;
    if (absl::SimpleAtoi(entry->d_name, &tid) && tid != process.pid()) tids.push_back(tid);
  }
  ::closedir(directory);
  return tids;
}

}  // namespace

StoppedChild::StoppedChild(std::unique_ptr<ProcessHandle> process)
    : process_(std::move(process)), tids_{process_->pid()} {}

absl::StatusOr<StoppedChild> StoppedChild::Clone(pid_t pid) {
  const pid_t parent = ::getpid();
  pid_t set_tid = pid;
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  arguments.set_tid = reinterpret_cast<uint64_t>(&set_tid);
  arguments.set_tid_size = 1;
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const LingeringId id(pid);
  long child;
  do {
    child = ::syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) WaitToBeSeized(parent);
  } while (child < 0 && errno == EEXIST && id.ShouldRetry());
  const absl::Status error = child < 0 ? CloneError(pid) : absl::OkStatus();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  INCR_RETURN_IF_ERROR(error);

  auto process = ProcessHandle::Open(pid);
  if (!process.ok()) {
    ::kill(pid, SIGKILL);  // Our unreaped child: the pid is still its own.
    ::waitpid(pid, nullptr, __WALL);
    return process.status();
  }
  StoppedChild result(std::make_unique<ProcessHandle>(*std::move(process)));
  INCR_RETURN_IF_ERROR(result.Seize());
  return result;
}

absl::Status StoppedChild::Seize() {
  if (::ptrace(PTRACE_SEIZE, pid(), nullptr, kOptions) != 0) {
    return ErrnoStatus(absl::StrCat("ptrace(SEIZE, ", pid(), ")"));
  }
  INCR_RETURN_IF_ERROR(PtraceResume(PTRACE_INTERRUPT, pid()));
  const TraceeStop stop = WaitForStop(pid(), MonotonicMicros() + kStopTimeoutUs);
  if (stop.kind != TraceeStop::kInSignalPath) {
    return absl::InternalError(
        absl::StrCat("the new process ", pid(), " did not stop: ", Describe(stop)));
  }
  return absl::OkStatus();
}

absl::Status StoppedChild::UnregisterInheritedRseq(RemoteSyscalls& syscalls) const {
  RseqConfiguration rseq{};
  const long size = ::ptrace(static_cast<__ptrace_request>(kGetRseqConfiguration), pid(),
                             sizeof rseq, &rseq);
  if (size < 0) return ErrnoStatus(absl::StrCat("ptrace(GET_RSEQ_CONFIGURATION, ", pid(), ")"));
  if (rseq.pointer == 0) return absl::OkStatus();
  return syscalls
      .Call("rseq(unregister)", SYS_rseq, rseq.pointer, rseq.size, kRseqUnregister, rseq.signature)
      .status();
}

absl::StatusOr<ScopedFd> StoppedChild::CreateUserfaultfd(uint64_t features) {
  return CreateRemoteUserfaultfd(Frozen(), features);
}

FrozenProcess& StoppedChild::Frozen() {
  if (!frozen_) frozen_.emplace(FrozenProcess::Adopt(process(), tids_));
  return *frozen_;
}

absl::Status StoppedChild::Release() {
  // First, and for all: a death of ours between two detaches would otherwise kill a
  // process that partly runs.
  for (pid_t tid : tids_) {
    if (::ptrace(PTRACE_SETOPTIONS, tid, nullptr, 0) != 0) {
      return ErrnoStatus(absl::StrCat("ptrace(SETOPTIONS, ", tid, ")"));
    }
  }
  absl::Status status = std::move(Frozen()).Thaw();
  if (status.ok()) process_.reset();
  return status;
}

// The leader's exit is reported only when every other thread has been reaped, by its tracer: us.
// /proc lists them all; one that a failed CloneCall() made is not in tids_.
void StoppedChild::KillAndReap() {
  (void)process_->SendSignal(SIGKILL);
  const int64_t deadline_us = MonotonicMicros() + kStopTimeoutUs;
  while (MonotonicMicros() < deadline_us) {
    for (pid_t tid : OtherThreads(*process_)) ReapExit(tid);
    if (ReapExit(pid())) return;
    ::usleep(50);
  }
}

StoppedChild::~StoppedChild() {
  if (process_ != nullptr) KillAndReap();
}

}  // namespace incr
