#include "restore/open_pipes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "base/status.h"
#include "restore/pipe_content.h"

namespace incr {

absl::Status OpenPipe(FileBuilder& builder, const std::vector<const pb::OpenFile*>& ends) {
  const pb::OpenFile* fullest = ends.front();
  for (const pb::OpenFile* end : ends) {
    if (end->pipe().content().size() > fullest->pipe().content().size()) fullest = end;
  }
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) return builder.RefuseErrno(*fullest, "pipe2");
  ScopedFd reader(fds[0]), writer(fds[1]);
  INCR_RETURN_IF_ERROR(FillPipe(builder, *fullest, writer.get()));

  // The first of each end gets what pipe2 made, any further one an open file of its own.
  ScopedFd first_reader(::fcntl(reader.get(), F_DUPFD_CLOEXEC, 3));
  ScopedFd first_writer(::fcntl(writer.get(), F_DUPFD_CLOEXEC, 3));
  for (const pb::OpenFile* end : ends) {
    const int access = static_cast<int>(end->flags()) & O_ACCMODE;
    ScopedFd fd;
    if (access == O_RDONLY && first_reader.ok()) {
      fd = std::move(first_reader);
    } else if (access == O_WRONLY && first_writer.ok()) {
      fd = std::move(first_writer);
    } else {
      fd = Reopen(reader.get(), access | O_NONBLOCK);
    }
    if (!fd.ok()) return builder.RefuseErrno(*end, "open(pipe)");
    INCR_RETURN_IF_ERROR(SetStatusFlags(builder, *end, fd.get()));
    INCR_RETURN_IF_ERROR(builder.Add(*end, std::move(fd)));
  }
  return absl::OkStatus();
}

absl::Status OpenInheritedPipe(FileBuilder& builder, const pb::OpenFile& file) {
  // Not the restore command's own, should it have inherited the same: the process would then hold
  // a pipe to outside that no parent of it holds, and could not be checkpointed again.
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return builder.RefuseErrno(file, "pipe2");
  ScopedFd reader(fds[0]), writer(fds[1]);
  ScopedFd& end = file.pipe().write_end() ? writer : reader;
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, end.get()));
  return builder.Add(file, std::move(end));
}

}  // namespace incr
