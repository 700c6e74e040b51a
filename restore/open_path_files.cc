#include "restore/open_path_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "restore/pipe_content.h"

namespace incr {
namespace {

// Flags that open(2) may take from an image: none that creates, truncates or follows
// a terminal into our session.
constexpr int kOpenFlags =
    O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_NOATIME;

// The path as a handle (O_PATH), so that what is checked is what is opened.
absl::StatusOr<ScopedFd> Find(const FileBuilder& builder, const pb::OpenFile& file,
                              struct statx* found) {
  const std::string& path = file.file().path();
  if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) {
    return builder.Malformed(file, "has no usable path");
  }
  ScopedFd handle(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!handle.ok()) return builder.RefuseErrno(file, absl::StrCat("open(", path, ")"));
  if (::statx(handle.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, found) != 0) {
    return builder.RefuseErrno(file, absl::StrCat("stat(", path, ")"));
  }
  return handle;
}

absl::Status CheckSameFile(const FileBuilder& builder, const pb::OpenFile& file,
                           const struct statx& found) {
  const pb::FileIdentity& saved = file.file();
  const int64_t birth = found.stx_btime.tv_sec * 1'000'000'000LL + found.stx_btime.tv_nsec;
  const bool reborn =
      (found.stx_mask & STATX_BTIME) != 0 && saved.birth_ns() != 0 && birth != saved.birth_ns();
  if (makedev(found.stx_dev_major, found.stx_dev_minor) != saved.dev() ||
      found.stx_ino != saved.ino() || (found.stx_mode & S_IFMT) != (saved.mode() & S_IFMT) ||
      reborn) {
    return builder.Refuse(file, absl::StrCat("another file is at ", saved.path(),
                                             " now (the program had inode ", saved.ino(),
                                             ", found ", found.stx_ino, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckNotShorter(const FileBuilder& builder, const pb::OpenFile& file,
                             const struct statx& found) {
  if (!S_ISREG(found.stx_mode) || (file.flags() & O_PATH) != 0) return absl::OkStatus();
  const pb::FileIdentity& saved = file.file();
  const bool writable = (file.flags() & O_ACCMODE) != O_RDONLY;
  const uint64_t needed = writable ? saved.size() : std::min(saved.size(), file.position());
  if (found.stx_size >= needed) return absl::OkStatus();
  return builder.Refuse(
      file, absl::StrCat(saved.path(), " has shrunk: ", found.stx_size, " bytes, it had ",
                         saved.size(), " and the program was at ", file.position()));
}

absl::Status SetPosition(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  const auto position = static_cast<off_t>(file.position());
  if (position < 0) return builder.Malformed(file, "has a negative position");
  if (position != 0 && ::lseek(fd, position, SEEK_SET) != position) {
    return builder.RefuseErrno(file, absl::StrCat("lseek(", position, ")"));
  }
  return absl::OkStatus();
}

// Open file description locks.
absl::Status TakeOfdLock(const FileBuilder& builder, const pb::OpenFile& file,
                         const pb::FileLock& lock, int fd) {
  struct flock request{};
  request.l_type = lock.exclusive() ? F_WRLCK : F_RDLCK;
  request.l_whence = SEEK_SET;
  request.l_start = static_cast<off_t>(lock.start());
  request.l_len = static_cast<off_t>(lock.length());
  if (::fcntl(fd, F_OFD_SETLK, &request) != 0) return builder.RefuseErrno(file, "F_OFD_SETLK");
  return absl::OkStatus();
}

}  // namespace

absl::Status TakeDescriptionLocks(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  for (const pb::FileLock& lock : file.locks()) {
    if (lock.kind() == pb::FileLock::FLOCK) {
      if (::flock(fd, (lock.exclusive() ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
        return builder.RefuseErrno(file, "flock");
      }
    } else if (lock.kind() == pb::FileLock::OPEN_FILE) {
      INCR_RETURN_IF_ERROR(TakeOfdLock(builder, file, lock, fd));
    } else if (lock.kind() != pb::FileLock::POSIX) {
      return builder.Malformed(file, "has a lock of unknown kind");
    }
  }
  return absl::OkStatus();
}

absl::Status OpenPathFile(FileBuilder& builder, const pb::OpenFile& file) {
  struct statx found{};
  INCR_ASSIGN_OR_RETURN(ScopedFd handle, Find(builder, file, &found));
  INCR_RETURN_IF_ERROR(CheckSameFile(builder, file, found));
  INCR_RETURN_IF_ERROR(CheckNotShorter(builder, file, found));
  if ((file.flags() & O_PATH) != 0) return builder.Add(file, std::move(handle));
  if (!S_ISREG(found.stx_mode) && !S_ISDIR(found.stx_mode)) {
    return builder.Malformed(file, "is neither a regular file nor a directory");
  }
  ScopedFd fd = Reopen(handle.get(), (static_cast<int>(file.flags()) & kOpenFlags) | O_NOCTTY);
  if (!fd.ok()) return builder.RefuseErrno(file, absl::StrCat("open(", file.file().path(), ")"));
  INCR_RETURN_IF_ERROR(SetPosition(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenCharDevice(FileBuilder& builder, const pb::OpenFile& file) {
  struct statx found{};
  INCR_ASSIGN_OR_RETURN(ScopedFd handle, Find(builder, file, &found));
  const uint64_t device = makedev(found.stx_rdev_major, found.stx_rdev_minor);
  if (!S_ISCHR(found.stx_mode) || device != file.file().rdev()) {
    return builder.Refuse(file, absl::StrCat(file.file().path(), " is not the device it was (",
                                             major(file.file().rdev()), ":",
                                             minor(file.file().rdev()), ")"));
  }
  ScopedFd fd = Reopen(handle.get(), (static_cast<int>(file.flags()) & kOpenFlags) | O_NOCTTY);
  if (!fd.ok()) return builder.RefuseErrno(file, absl::StrCat("open(", file.file().path(), ")"));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenFifo(FileBuilder& builder, const pb::OpenFile& file) {
  struct statx found{};
  INCR_ASSIGN_OR_RETURN(ScopedFd handle, Find(builder, file, &found));
  INCR_RETURN_IF_ERROR(CheckSameFile(builder, file, found));
  if (!S_ISFIFO(found.stx_mode)) return builder.Malformed(file, "is not a FIFO");
  // Both ways at once: neither open below waits for a partner, and what is put in stays.
  ScopedFd holder = Reopen(handle.get(), O_RDWR | O_NONBLOCK);
  if (!holder.ok()) return builder.RefuseErrno(file, "open(O_RDWR)");
  int queued = 0;
  if (::ioctl(holder.get(), FIONREAD, &queued) != 0) return builder.RefuseErrno(file, "FIONREAD");
  if (queued == 0) INCR_RETURN_IF_ERROR(FillPipe(builder, file, holder.get()));
  const int flags = static_cast<int>(file.flags()) & (O_ACCMODE | O_DIRECT);
  ScopedFd fd = Reopen(handle.get(), flags | O_NONBLOCK);
  if (!fd.ok()) return builder.RefuseErrno(file, absl::StrCat("open(", file.file().path(), ")"));
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  INCR_RETURN_IF_ERROR(builder.AddHelper(std::move(holder)));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenStdio(FileBuilder& builder, const pb::OpenFile& file) {
  if (file.stdio_fd() > 2) return builder.Malformed(file, "is no standard descriptor");
  const int ours = static_cast<int>(file.stdio_fd());
  ScopedFd fd(::fcntl(ours, F_DUPFD_CLOEXEC, 3));
  if (!fd.ok()) {
    INCR_ASSIGN_OR_RETURN(fd, OpenFile("/dev/null", O_RDWR));
    return builder.Add(file, std::move(fd));
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  struct stat object{};
  if (flags < 0 || ::fstat(fd.get(), &object) != 0) return builder.RefuseErrno(file, "F_GETFL");
  const int wanted = (flags & ~O_NONBLOCK) | (static_cast<int>(file.flags()) & O_NONBLOCK);
  const bool matters = S_ISCHR(object.st_mode) || S_ISFIFO(object.st_mode) ||
                       S_ISSOCK(object.st_mode);
  if (wanted == flags || !matters) return builder.Add(file, std::move(fd));
  if (!S_ISSOCK(object.st_mode)) {
    ScopedFd own = Reopen(fd.get(), (wanted & (O_ACCMODE | O_NONBLOCK | O_APPEND)) | O_NOCTTY);
    if (own.ok()) return builder.Add(file, std::move(own));
  }
  if (::fcntl(fd.get(), F_SETFL, wanted) != 0) return builder.RefuseErrno(file, "F_SETFL");
  return builder.Add(file, std::move(fd));
}

}  // namespace incr
