// remote_memory.h — bytes of another process. Thread-safe (no state but a descriptor).
#ifndef INCR_CKPT_PROCESS_REMOTE_MEMORY_H_
#define INCR_CKPT_PROCESS_REMOTE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "process/process_handle.h"
#include "process/remote_addr.h"

namespace incr {

// Keeps /proc/<pid>/mem open: it stays bound to the mm it was opened on, so after an
// exec reads give 0 bytes, never another program's memory.
class RemoteMemory {
 public:
  static absl::StatusOr<RemoteMemory> Open(const ProcessHandle& process, bool writable);

  // Exactly `size` bytes or an error that names the address. Reads PROT_NONE too
  // (/proc/<pid>/mem, FOLL_FORCE); uses process_vm_readv first because it is faster.
  absl::Status Read(RemoteAddr from, void* to, size_t size) const;
  // Writes through page protection on private mappings.
  absl::Status Write(RemoteAddr to, const void* from, size_t size) const;

  // Copies whole pages: range after range, back to back into `to`, which holds
  // kPageSize * (sum of counts) bytes. process_vm_readv in batches of up to
  // IOV_MAX runs; a run that fails there is read again through /proc/<pid>/mem, page by page.
  // Pages that cannot be read at all (unmapped meanwhile, beyond the end of a
  // file) are zero-filled and added to `unreadable`.
  absl::Status ReadPages(const std::vector<PageRange>& ranges, uint8_t* to,
                         PageSet* unreadable) const;

 private:
  RemoteMemory(pid_t pid, ScopedFd mem) : pid_(pid), mem_(std::move(mem)) {}
  absl::Status ReadBatch(const std::vector<PageRange>& batch, uint8_t* to,
                         PageSet* unreadable) const;
  absl::Status ReadRunSlowly(PageRange run, uint8_t* to, PageSet* unreadable) const;
  pid_t pid_;
  ScopedFd mem_;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_REMOTE_MEMORY_H_
