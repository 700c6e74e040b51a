// stopped_child.h — a new child of ours with a chosen pid, ptrace-stopped before it does
// anything: the clay a restore builds from.
//
// clone3(set_tid) without CLONE_VM: the child is a fork of us and needs no program of
// its own. It does raw system calls only (our other threads may hold any lock) and, until
// it is seized, dies with us by PR_SET_PDEATHSIG; afterwards by PTRACE_O_EXITKILL. All signals are
// blocked in it, so that none of our handlers ever runs there.
//
// Destruction kills and reaps the child unless it was released.
//
// Thread safety: none; the calling thread becomes parent and tracer, and PDEATHSIG means
// that this thread and not only the process must live until the child is seized.
#ifndef INCR_CKPT_PROCESS_STOPPED_CHILD_H_
#define INCR_CKPT_PROCESS_STOPPED_CHILD_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "process/frozen_process.h"
#include "process/process_handle.h"
#include "process/remote_syscalls.h"

namespace incr {

class StoppedChild {
 public:
  // kAlreadyExists: the pid is taken. kPermissionDenied: needs CAP_CHECKPOINT_RESTORE.
  static absl::StatusOr<StoppedChild> Clone(pid_t pid);

  StoppedChild(StoppedChild&& other) noexcept = default;
  StoppedChild& operator=(StoppedChild&&) = delete;
  ~StoppedChild();

  const ProcessHandle& process() const { return *process_; }
  pid_t pid() const { return process_->pid(); }

  // Threads that CloneCall() made in it; they are reaped with it.
  void AddThread(pid_t tid) { tids_.push_back(tid); }
  const std::vector<pid_t>& tids() const { return tids_; }  // leader first

  // Undoes the registration that the child's libc inherited from ours: the kernel writes to
  // that area on every return to user mode and kills a process that has unmapped it.
  absl::Status UnregisterInheritedRseq(RemoteSyscalls& syscalls) const;

  // A userfaultfd created in it; see CreateRemoteUserfaultfd(). All threads are there.
  absl::StatusOr<ScopedFd> CreateUserfaultfd(uint64_t features);

  // Detaches every thread: it runs, and lives on if we die.
  absl::Status Release();

 private:
  explicit StoppedChild(std::unique_ptr<ProcessHandle> process);
  absl::Status Seize();
  void KillAndReap();
  FrozenProcess& Frozen();

  std::unique_ptr<ProcessHandle> process_;  // null: moved from or released
  std::vector<pid_t> tids_;
  std::optional<FrozenProcess> frozen_;  // once all threads are there
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_STOPPED_CHILD_H_
