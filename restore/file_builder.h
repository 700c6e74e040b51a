// file_builder.h — what the openers of each kind of file share: names for errors, and
// the place where an opened file goes.
#ifndef INCR_CKPT_RESTORE_FILE_BUILDER_H_
#define INCR_CKPT_RESTORE_FILE_BUILDER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"
#include "proto/image.pb.h"
#include "restore/prepared_files.h"
#include "restore/socket_files.h"

namespace incr {

class FileBuilder {
 public:
  // All outlive it. `prepared->first_free` is set.
  FileBuilder(const pb::Process& process, PreparedFiles* prepared);

  // Keeps `fd` as the open file, moved to first_free or above.
  absl::Status Add(const pb::OpenFile& file, ScopedFd fd);
  // Keeps `fd` open until the files are installed.
  absl::Status AddHelper(ScopedFd fd);

  // "fd 7 (/a/path)"; "open file 3" if no descriptor holds it.
  std::string Name(const pb::OpenFile& file) const;

  // The lowest descriptor that holds it, -1: none.
  int LowestFd(const pb::OpenFile& file) const;

  // kFailedPrecondition "<name>: <why>": the machine no longer has what the image needs.
  absl::Status Refuse(const pb::OpenFile& file, absl::string_view why) const;
  // The same with the words of `errno`: "<name>: <operation>: No such file or directory".
  absl::Status RefuseErrno(const pb::OpenFile& file, absl::string_view operation) const;
  // kInvalidArgument: no process could have had this.
  absl::Status Malformed(const pb::OpenFile& file, absl::string_view why) const;

  // What BindAddress makes in the file system.
  SocketFiles& socket_files() { return prepared_->socket_files; }

  int cwd() const { return prepared_->cwd.get(); }  // -1: none

 private:
  absl::StatusOr<ScopedFd> MoveUp(ScopedFd fd);
  PreparedFiles* prepared_;
  std::map<uint32_t, uint32_t> lowest_fd_;  // by open file
};

// Gives an open file the image's O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME.
absl::Status SetStatusFlags(const FileBuilder& builder, const pb::OpenFile& file, int fd);

// A second open file description of what `fd` is open on, /proc/self/fd being the way.
// `flags`: as for open(2); O_CLOEXEC is added. -1 and errno on failure.
ScopedFd Reopen(int fd, int flags);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_FILE_BUILDER_H_
