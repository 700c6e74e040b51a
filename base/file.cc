#include "base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {

absl::StatusOr<ScopedFd> OpenFile(const std::string& path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus(absl::StrCat("open(", path, ")"));
  return ScopedFd(fd);
}

absl::StatusOr<size_t> PreadUpTo(int fd, void* data, size_t size, uint64_t offset,
                                 absl::string_view what) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::pread(fd, static_cast<char*>(data) + done, size - done,
                        static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("pread(", what, ")"));
    if (n == 0) break;
    done += n;
  }
  return done;
}

absl::Status PreadExactly(int fd, void* data, size_t size, uint64_t offset,
                          absl::string_view what) {
  INCR_ASSIGN_OR_RETURN(size_t n, PreadUpTo(fd, data, size, offset, what));
  if (n < size) {
    return absl::OutOfRangeError(absl::StrCat("pread(", what, "): ends at ", offset + n,
                                              ", wanted ", size, " bytes at ", offset));
  }
  return absl::OkStatus();
}

absl::Status PwriteExactly(int fd, const void* data, size_t size, uint64_t offset,
                           absl::string_view what) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::pwrite(fd, static_cast<const char*>(data) + done, size - done,
                         static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("pwrite(", what, ")"));
    if (n == 0) return ErrnoStatus(EIO, absl::StrCat("pwrite(", what, ")"));
    done += n;
  }
  return absl::OkStatus();
}

absl::Status WriteExactly(int fd, const void* data, size_t size, absl::string_view what) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::write(fd, static_cast<const char*>(data) + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("write(", what, ")"));
    if (n == 0) return ErrnoStatus(EIO, absl::StrCat("write(", what, ")"));
    done += n;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFd(int fd, absl::string_view what, size_t max_bytes) {
  std::string text;
  size_t used = 0;
  for (;;) {
    if (text.size() - used < 4096) text.resize(text.empty() ? 16384 : text.size() * 2);
    ssize_t n = ::read(fd, text.data() + used, text.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("read(", what, ")"));
    if (n == 0) break;
    used += n;
    if (used > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("read(", what, "): larger than ", max_bytes, " bytes"));
    }
  }
  text.resize(used);
  return text;
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, size_t max_bytes) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(path, O_RDONLY));
  return ReadWholeFd(fd.get(), path, max_bytes);
}

absl::Status WriteFileDurably(const std::string& path, absl::string_view content, mode_t mode) {
  const std::string temporary = absl::StrCat(path, ".tmp");
  {
    INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode));
    INCR_RETURN_IF_ERROR(WriteExactly(fd.get(), content.data(), content.size(), temporary));
    if (::fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("fsync(", temporary, ")"));
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("rename(", temporary, ", ", path, ")"));
  }
  const size_t slash = path.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash + 1));
}

absl::Status SyncDirectory(const std::string& path) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("fsync(", path, ")"));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadLink(const std::string& path) {
  char buffer[PATH_MAX + 64];
  ssize_t n = ::readlink(path.c_str(), buffer, sizeof buffer);
  if (n < 0) return ErrnoStatus(absl::StrCat("readlink(", path, ")"));
  return std::string(buffer, n);
}

}  // namespace incr
