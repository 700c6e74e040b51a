// socket_files.h — the socket files that binding has made, until it is sure that the
// process which serves them will run.
//
//   SetAside(stale) -> bind -> AddBound -> ... -> Keep, or destruction: all as it was
//
// A socket has the name it was bound to for ever (getsockname), so it cannot be bound to a
// temporary one and renamed: it is the stale file that makes room.
//
// Not thread-safe. Destruction undoes, latest first, what was not kept.
#ifndef INCR_CKPT_RESTORE_SOCKET_FILES_H_
#define INCR_CKPT_RESTORE_SOCKET_FILES_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"

namespace incr {

class SocketFiles {
 public:
  SocketFiles() = default;
  SocketFiles(SocketFiles&& other) noexcept;
  SocketFiles& operator=(SocketFiles&& other) noexcept;
  ~SocketFiles() { Undo(); }

  // Renames `path` to a name beside it. `directory`: what a relative path is relative to, or
  // AT_FDCWD. Where the file system cannot (NFS), the file is removed.
  absl::Status SetAside(int directory, const std::string& path);

  // A socket was bound to `path`. Removed only if it is still the same file; at once on an error.
  absl::Status AddBound(int directory, const std::string& path);

  // The process runs: the files are its own, those set aside nobody's.
  void Keep();

 private:
  struct Step {
    ScopedFd directory;  // not set: AT_FDCWD
    std::string path;
    std::string aside;  // empty: a file was bound
    dev_t device = 0;   // of the bound file
    ino_t inode = 0;
    int at() const;
  };
  static absl::StatusOr<Step> NewStep(int directory, const std::string& path);
  void Undo();

  std::vector<Step> steps_;
};

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_SOCKET_FILES_H_
