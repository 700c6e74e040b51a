// file_pages.h — unmodified pages of privately mapped files, into the epoch (--save-file-pages), so that it can
// be restored when its program and libraries have been replaced or deleted.
//
// They are the same for everyone who maps the file, so each version of a file (device, inode, size, times) gets a
// space of its own in the page table, from kFirstFileSpace on, keyed by page of the file; a mapping
// names it (Mapping.file_space). Whatever of it is mapped is read once, from the file and not from the target,
// outside of the freeze; later epochs inherit it from the chain, until no mapping of that version is left.
//
// The target's own pages win over these. What lies beyond the file's end has no page.
//
// Not thread-safe.
#ifndef INCR_CKPT_CHECKPOINT_FILE_PAGES_H_
#define INCR_CKPT_CHECKPOINT_FILE_PAGES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/page_range.h"
#include "process/process_handle.h"
#include "proto/image.pb.h"
#include "store/page_table.h"
#include "store/store.h"

namespace incr {

class FilePages {
 public:
  // Not enabled: saves nothing, and drops what an adopted chain has.
  explicit FilePages(bool enabled) : enabled_(enabled) {}

  // The next epoch begins a chain of its own.
  void Reset() { durable_.clear(); }
  // The next epoch's parent is the one of this image and table.
  void Adopt(const pb::Process& process, const PageTable& table);

  // `process` is as CaptureMappings described it, after the thaw: its mappings of files get their spaces,
  // `writer` what the chain lacks. kAborted: a file is not any more what it was then.
  absl::Status Save(const ProcessHandle& target, EpochWriter* writer, pb::Process* process);

  // The epoch of the last Save is the next one's parent. (If it failed: nothing to do.)
  void EpochDurable() { durable_ = std::move(pending_); }

 private:
  struct File {
    pb::FileIdentity identity;
    uint32_t space = 0;
    PageSet saved;   // in the chain
    PageSet mapped;  // now
    uint64_t start = 0, end = 0;  // of a mapping of it
  };

  File* FindOrAdd(const pb::FileIdentity& identity);
  absl::Status SaveFile(const ProcessHandle& target, EpochWriter* writer, File* file);

  const bool enabled_;
  std::vector<File> durable_, pending_;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_FILE_PAGES_H_
