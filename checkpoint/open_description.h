// open_description.h — descriptors of one process grouped by open file description:
// what dup() and fork() share is one thing, and becomes one OpenFile of the image.
#ifndef INCR_CKPT_CHECKPOINT_OPEN_DESCRIPTION_H_
#define INCR_CKPT_CHECKPOINT_OPEN_DESCRIPTION_H_

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "process/fd_table.h"
#include "process/process_handle.h"

namespace incr {

struct OpenDescription {
  std::vector<const FdEntry*> descriptors;  // by number, at least one

  const FdEntry& first() const { return *descriptors.front(); }
  int fd() const { return first().fd; }
  uint32_t flags() const { return first().flags; }
  int access() const;   // O_RDONLY, O_WRONLY, O_RDWR
  bool readable() const;
  bool writable() const;
  bool on_stdio() const { return fd() <= 2; }
  uint64_t inode() const { return first().stat.st_ino; }
};

// By lowest descriptor. Pointers into `table`.
absl::StatusOr<std::vector<OpenDescription>> GroupByOpenFile(const ProcessHandle& target,
                                                             const std::vector<FdEntry>& table);

// What the capture of one description needs to know of the others.
struct FileCapture {
  const ProcessHandle& target;
  const std::vector<FdEntry>& table;
  const std::vector<OpenDescription>& all;
  const FsContext& fs;
  std::set<std::string>* inherited_pipes = nullptr;  // see FilesKnown
};

// An unsupported resource, the only meaning of kUnimplemented here:
// "fd 7 (anon_inode:inotify): <why>".
absl::Status Unsupported(const OpenDescription& description, absl::string_view why);

// "fd 7 (pipe:[123])"
std::string Describe(const OpenDescription& description);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_OPEN_DESCRIPTION_H_
