#include "checkpoint/capture_pipes.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "checkpoint/capture_path_files.h"

namespace incr {
namespace {

bool SamePipe(const FdEntry& a, const FdEntry& b) {
  return S_ISFIFO(b.stat.st_mode) && a.stat.st_ino == b.stat.st_ino &&
         a.stat.st_dev == b.stat.st_dev;
}

struct Ends {
  const OpenDescription* reader = nullptr;  // the first of each
  const OpenDescription* writer = nullptr;
  bool both() const { return reader != nullptr && writer != nullptr; }
};

Ends FindEnds(const FileCapture& capture, const OpenDescription& description) {
  Ends ends;
  for (const OpenDescription& other : capture.all) {
    if (!SamePipe(description.first(), other.first())) continue;
    if ((other.flags() & O_PATH) != 0) continue;
    if (ends.reader == nullptr && other.readable()) ends.reader = &other;
    if (ends.writer == nullptr && other.writable()) ends.writer = &other;
  }
  return ends;
}

absl::StatusOr<int> QueuedBytes(const OpenDescription& description, int fd) {
  int queued = 0;
  if (::ioctl(fd, FIONREAD, &queued) != 0) {
    return ErrnoStatus(absl::StrCat("FIONREAD(", Describe(description), ")"));
  }
  return queued;
}

// A read returns one packet of an O_DIRECT pipe, else whatever is there.
absl::Status DrainCopy(const OpenDescription& description, int fd, int expected, pb::Pipe* pipe) {
  std::string& content = *pipe->mutable_content();
  content.resize(expected);
  int done = 0;
  while (done < expected) {
    const ssize_t n = ::read(fd, content.data() + done, expected - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("read(copy of ", Describe(description), ")"));
    if (n == 0) break;
    pipe->add_packet_sizes(static_cast<uint32_t>(n));
    done += static_cast<int>(n);
  }
  if (done != expected) {
    return absl::InternalError(absl::StrCat(Describe(description), ": ", done, " of ", expected,
                                            " bytes in the pipe could be copied"));
  }
  return absl::OkStatus();
}

// tee() always starts at the head, so all must fit in one go: our pipe gets as many slots.
absl::Status CopyContent(const OpenDescription& description, int reader, int capacity,
                         bool packets, pb::Pipe* pipe) {
  INCR_ASSIGN_OR_RETURN(int queued, QueuedBytes(description, reader));
  if (queued == 0) return absl::OkStatus();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoStatus("pipe2");
  ScopedFd copy_reader(ends[0]), copy_writer(ends[1]);
  if (::fcntl(copy_writer.get(), F_SETPIPE_SZ, capacity) < 0) {
    return ErrnoStatus(absl::StrCat("F_SETPIPE_SZ ", capacity, " to copy ",
                                    Describe(description)));
  }
  const ssize_t n = ::tee(reader, copy_writer.get(), queued, SPLICE_F_NONBLOCK);
  if (n < 0) return ErrnoStatus(absl::StrCat("tee(", Describe(description), ")"));
  INCR_RETURN_IF_ERROR(DrainCopy(description, copy_reader.get(), queued, pipe));
  if (!packets && pipe->packet_sizes_size() == 1) pipe->clear_packet_sizes();
  return absl::OkStatus();
}

// Capacity, and on the first readable end what is in the pipe.
absl::Status SavePipe(const FileCapture& capture, const OpenDescription& description,
                      const Ends& ends, bool save_content, pb::Pipe* pipe) {
  INCR_ASSIGN_OR_RETURN(ScopedFd copy, capture.target.DuplicateFd(description.fd()));
  const int capacity = ::fcntl(copy.get(), F_GETPIPE_SZ);
  if (capacity < 0) return ErrnoStatus(absl::StrCat("F_GETPIPE_SZ(", Describe(description), ")"));
  pipe->set_pipe_id(description.inode());
  pipe->set_write_end(!description.readable());
  pipe->set_capacity(static_cast<uint32_t>(capacity));
  if (&description != ends.reader || !save_content) return absl::OkStatus();
  const bool packets = ends.both() && (ends.writer->flags() & O_DIRECT) != 0;
  return CopyContent(description, copy.get(), capacity, packets, pipe);
}

// Nobody anywhere holds the other end: the kernel says so to poll.
absl::StatusOr<bool> OtherEndClosed(const FileCapture& capture,
                                    const OpenDescription& description) {
  INCR_ASSIGN_OR_RETURN(ScopedFd copy, capture.target.DuplicateFd(description.fd()));
  pollfd poll_fd{copy.get(), 0, 0};
  if (::poll(&poll_fd, 1, 0) < 0) {
    return ErrnoStatus(absl::StrCat("poll(", Describe(description), ")"));
  }
  return (poll_fd.revents & (POLLHUP | POLLERR)) != 0;
}

// It costs a look at the descriptors of all ancestors.
bool IsInherited(const FileCapture& capture, const OpenDescription& description) {
  const std::string name = Describe(description);
  if (capture.inherited_pipes != nullptr && capture.inherited_pipes->count(name) != 0) return true;
  const bool inherited = InheritedPipeEnd(capture.target, description.first());
  if (inherited && capture.inherited_pipes != nullptr) capture.inherited_pipes->insert(name);
  return inherited;
}

absl::Status CaptureOutsidePipe(const FileCapture& capture, const OpenDescription& description,
                                const Ends& ends, pb::OpenFile* file, pb::Image* image) {
  const auto same = [&](const FdEntry& entry) { return SamePipe(description.first(), entry); };
  if (BecomesStdio(capture, description, same, file)) return absl::OkStatus();
  const std::string where = absl::StrCat("the ", ends.reader ? "write" : "read",
                                         " end of this pipe is in another process");
  if (!IsInherited(capture, description)) return Unsupported(description, where);
  file->set_kind(pb::OpenFile::INHERITED_PIPE);
  file->mutable_pipe()->set_pipe_id(description.inode());
  file->mutable_pipe()->set_write_end(ends.writer != nullptr);
  image->add_warnings(absl::StrCat(Describe(description), ": ", where,
                                   "; inherited from a parent, it will be restored as closed there"));
  return absl::OkStatus();
}

}  // namespace

absl::Status CapturePipe(const FileCapture& capture, const OpenDescription& description,
                         pb::OpenFile* file, pb::Image* image) {
  const Ends ends = FindEnds(capture, description);
  if (!ends.both()) {
    // An input that has ended comes back as it is, with what is left in it. An output
    // that nobody reads any more gets the restore command's, if it is stdout or stderr.
    const auto same = [&](const FdEntry& entry) { return SamePipe(description.first(), entry); };
    if (ends.writer != nullptr && BecomesStdio(capture, description, same, file)) {
      return absl::OkStatus();
    }
    INCR_ASSIGN_OR_RETURN(const bool closed, OtherEndClosed(capture, description));
    if (!closed) return CaptureOutsidePipe(capture, description, ends, file, image);
  }
  file->set_kind(pb::OpenFile::PIPE);
  return SavePipe(capture, description, ends, /*save_content=*/true, file->mutable_pipe());
}

absl::Status CaptureFifo(const FileCapture& capture, const OpenDescription& description,
                         pb::OpenFile* file, pb::Image* image) {
  const Ends ends = FindEnds(capture, description);
  file->set_kind(pb::OpenFile::FIFO);
  INCR_RETURN_IF_ERROR(FillIdentity(description, file->mutable_file()));
  INCR_RETURN_IF_ERROR(SavePipe(capture, description, ends, ends.both(), file->mutable_pipe()));
  if (ends.both() || ends.reader == nullptr) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(ScopedFd copy, capture.target.DuplicateFd(description.fd()));
  INCR_ASSIGN_OR_RETURN(int queued, QueuedBytes(description, copy.get()));
  if (queued > 0) {
    image->add_warnings(absl::StrCat(Describe(description), ": ", queued,
                                     " unread bytes of this named pipe come from another "
                                     "process and are not saved"));
  }
  return absl::OkStatus();
}

}  // namespace incr
