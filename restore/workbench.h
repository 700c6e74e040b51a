// workbench.h — the stopped child that a restore works on: its remote calls, its memory,
// and a few scratch pages of ours in it, at an address that neither the child's inherited
// mappings nor the image use.
//
// The first scratch page holds a `syscall` instruction of our own, so that the vdso can be
// moved; the rest is room for arguments.
#ifndef INCR_CKPT_RESTORE_WORKBENCH_H_
#define INCR_CKPT_RESTORE_WORKBENCH_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/page_range.h"
#include "base/status.h"
#include "process/process_handle.h"
#include "process/remote_memory.h"
#include "process/remote_syscalls.h"
#include "restore/plan.h"

namespace incr {

inline constexpr uint64_t kWorkbenchBytes = 64 << 10;

class Workbench {
 public:
  // `child` rests in a ptrace stop of ours and outlives the result.
  static absl::StatusOr<Workbench> SetUp(const ProcessHandle& child, const RestorePlan& plan);

  RemoteSyscalls& leader() { return leader_; }
  const RemoteMemory& memory() const { return memory_; }
  const ProcessHandle& child() const { return *child_; }
  const AddressRange& range() const { return range_; }
  RemoteAddr syscall_instruction() const { return RemoteAddr(range_.start); }
  RemoteAddr arguments() const { return RemoteAddr(range_.start + kPageSize); }
  size_t arguments_size() const { return range_.size() - kPageSize; }

  // Puts bytes at arguments(). REQUIRES: size <= arguments_size().
  absl::Status Put(const void* bytes, size_t size) const {
    INCR_CHECK(size <= arguments_size());
    return memory_.Write(arguments(), bytes, size);
  }
  absl::Status Put(absl::string_view bytes) const { return Put(bytes.data(), bytes.size()); }

  // Unmaps the scratch pages. `instruction`: where a `syscall` lies that stays.
  absl::Status Clear(RemoteAddr instruction);

 private:
  Workbench(const ProcessHandle& child, RemoteSyscalls leader, RemoteMemory memory,
            AddressRange range)
      : child_(&child), leader_(std::move(leader)), memory_(std::move(memory)), range_(range) {}

  const ProcessHandle* child_;
  RemoteSyscalls leader_;
  RemoteMemory memory_;
  AddressRange range_;
};

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_WORKBENCH_H_
