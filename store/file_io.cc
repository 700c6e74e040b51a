#include "store/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

std::string Operation(absl::string_view name, const std::string& path) {
  return absl::StrCat(name, "(", path, ")");
}

absl::StatusOr<struct stat> StatOf(int fd, const std::string& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(Operation("fstat", path));
  return info;
}

}  // namespace

void FileFaults::FlipBits(void* data, size_t bytes) {
  if (bytes > 0) static_cast<uint8_t*>(data)[bytes / 2] ^= 0x10;
}

absl::Status FileIo::Ask(const FileCall& call, absl::string_view operation) const {
  if (faults_ == nullptr) [[likely]] return absl::OkStatus();
  FileFaults::Verdict verdict;
  do {
    verdict = faults_->Before(call);
  } while (verdict.error == EINTR);
  if (verdict.error == 0) return absl::OkStatus();
  return ErrnoStatus(verdict.error, Operation(operation, call.path));
}

absl::StatusOr<ScopedFd> FileIo::Open(const std::string& path, int flags, mode_t mode) const {
  const FileCall call{flags & O_CREAT ? FileOp::kCreate : FileOp::kOpen, path};
  INCR_RETURN_IF_ERROR(Ask(call, "open"));
  absl::StatusOr<ScopedFd> fd = OpenFile(path, flags | O_NOFOLLOW, mode);
  struct stat info;
  if (!fd.ok() && ::lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is a symbolic link, and none in a store is followed: put the file itself there"));
  }
  if (!fd.ok()) return fd;
  // As asked, whatever the umask.
  if (flags & O_CREAT && ::fchmod(fd->get(), mode) != 0) {
    return ErrnoStatus(Operation("fchmod", path));
  }
  Done(call);
  return fd;
}

absl::StatusOr<size_t> FileIo::PreadUpTo(int fd, void* data, size_t size, uint64_t offset,
                                         const std::string& path) const {
  if (faults_ == nullptr) [[likely]] return incr::PreadUpTo(fd, data, size, offset, path);
  size_t done = 0;
  while (done < size) {
    const FileCall call{FileOp::kRead, path, offset + done, size - done};
    const FileFaults::Verdict verdict = faults_->Before(call);
    if (verdict.error == EINTR) continue;
    if (verdict.error != 0) return ErrnoStatus(verdict.error, Operation("pread", path));
    char* const to = static_cast<char*>(data) + done;
    INCR_ASSIGN_OR_RETURN(const size_t n, incr::PreadUpTo(fd, to, std::min(call.bytes, std::max<size_t>(verdict.bytes, 1)),
                                                          call.offset, path));
    if (n == 0) break;
    if (verdict.flip_bits) FileFaults::FlipBits(to, n);
    done += n;
  }
  return done;
}

absl::Status FileIo::PreadExactly(int fd, void* data, size_t size, uint64_t offset,
                                  const std::string& path) const {
  INCR_ASSIGN_OR_RETURN(const size_t n, PreadUpTo(fd, data, size, offset, path));
  if (n == size) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("pread(", path, "): ends at ", offset + n, ", wanted ",
                                            size, " bytes at ", offset));
}

absl::Status FileIo::PwriteExactly(int fd, const void* data, size_t size, uint64_t offset,
                                   const std::string& path) const {
  if (faults_ == nullptr) [[likely]] return incr::PwriteExactly(fd, data, size, offset, path);
  for (size_t done = 0; done < size;) {
    const FileCall call{FileOp::kWrite, path, offset + done, size - done};
    const FileFaults::Verdict verdict = faults_->Before(call);
    if (verdict.error == EINTR) continue;
    const size_t n = std::min(call.bytes, verdict.error != 0 && verdict.bytes == SIZE_MAX
                                              ? 0 : verdict.bytes);
    const char* const from = static_cast<const char*>(data) + done;
    // A torn write need not end where O_DIRECT could: what reached the disk is not the program's choice.
    const int flags = ::fcntl(fd, F_GETFL);
    if (n != call.bytes) ::fcntl(fd, F_SETFL, flags & ~O_DIRECT);
    const absl::Status status = incr::PwriteExactly(fd, from, n, call.offset, path);
    if (n != call.bytes) ::fcntl(fd, F_SETFL, flags);
    INCR_RETURN_IF_ERROR(status);
    if (n > 0) Done(call);
    if (verdict.error != 0) return ErrnoStatus(verdict.error, Operation("pwrite", path));
    if (n == 0) return ErrnoStatus(EIO, Operation("pwrite", path));
    done += n;
  }
  return absl::OkStatus();
}

absl::Status FileIo::Sync(int fd, const std::string& path) const {
  const FileCall call{FileOp::kSync, path};
  INCR_RETURN_IF_ERROR(Ask(call, "fdatasync"));
  if (::fdatasync(fd) != 0) return ErrnoStatus(Operation("fdatasync", path));
  Done(call);
  return absl::OkStatus();
}

absl::Status FileIo::SyncDirectory(const std::string& path) const {
  const FileCall call{FileOp::kSyncDirectory, path};
  INCR_RETURN_IF_ERROR(Ask(call, "fsync"));
  INCR_RETURN_IF_ERROR(incr::SyncDirectory(path));
  Done(call);
  return absl::OkStatus();
}

absl::Status FileIo::Truncate(int fd, uint64_t size, const std::string& path) const {
  const FileCall call{FileOp::kTruncate, path, size};
  INCR_RETURN_IF_ERROR(Ask(call, "ftruncate"));
  if (::ftruncate(fd, size) != 0) return ErrnoStatus(Operation("ftruncate", path));
  Done(call);
  return absl::OkStatus();
}

bool FileIo::Allocate(int fd, uint64_t size, const std::string& path) const {
  const FileCall call{FileOp::kAllocate, path, size};
  if (!Ask(call, "fallocate").ok() || ::fallocate(fd, 0, 0, size) != 0) return false;
  Done(call);
  return true;
}

absl::Status FileIo::Unlink(const std::string& path) const {
  const FileCall call{FileOp::kUnlink, path};
  INCR_RETURN_IF_ERROR(Ask(call, "unlink"));
  if (::unlink(path.c_str()) != 0) return ErrnoStatus(Operation("unlink", path));
  Done(call);
  return absl::OkStatus();
}

absl::Status FileIo::Rename(const std::string& from, const std::string& to) const {
  const FileCall call{FileOp::kRename, from, 0, 0, &to};
  INCR_RETURN_IF_ERROR(Ask(call, "rename"));
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("rename(", from, ", ", to, ")"));
  }
  Done(call);
  return absl::OkStatus();
}

absl::Status FileIo::Link(const std::string& from, const std::string& to) const {
  const FileCall call{FileOp::kLink, from, 0, 0, &to};
  INCR_RETURN_IF_ERROR(Ask(call, "link"));
  if (::link(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("link(", from, ", ", to, ")"));
  }
  Done(call);
  return absl::OkStatus();
}

absl::Status FileIo::RemoveTree(const std::string& path) const {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return absl::OkStatus();
  if (type != fs::file_type::directory) return Unlink(path);
  // Names first: a directory that changes while it is read may show some of them twice or not at all.
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) names.push_back(entry.path());
  if (error) return ErrnoStatus(error.value(), Operation("opendir", path));
  for (const std::string& name : names) INCR_RETURN_IF_ERROR(RemoveTree(name));
  const FileCall call{FileOp::kRemoveDirectory, path};
  INCR_RETURN_IF_ERROR(Ask(call, "rmdir"));
  if (::rmdir(path.c_str()) != 0) return ErrnoStatus(Operation("rmdir", path));
  Done(call);
  return absl::OkStatus();
}

absl::StatusOr<size_t> FileIo::ReadSome(int fd, void* data, size_t size, const std::string& path) const {
  FileFaults::Verdict verdict;
  if (faults_ != nullptr) {
    do {
      verdict = faults_->Before({FileOp::kRead, path, 0, size});
    } while (verdict.error == EINTR);
    if (verdict.error != 0) return ErrnoStatus(verdict.error, Operation("read", path));
    size = std::min(size, std::max<size_t>(verdict.bytes, 1));
  }
  ssize_t n;
  do {
    n = ::read(fd, data, size);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoStatus(Operation("read", path));
  if (verdict.flip_bits) FileFaults::FlipBits(data, n);
  return n;
}

absl::Status FileIo::WriteAll(int fd, const void* data, size_t size, const std::string& path) const {
  if (faults_ == nullptr) [[likely]] return WriteExactly(fd, data, size, path);
  for (size_t done = 0; done < size;) {
    const off_t at = ::lseek(fd, 0, SEEK_CUR);  // A pipe has none.
    const FileCall call{FileOp::kWrite, path, static_cast<uint64_t>(std::max<off_t>(at, 0)), size - done};
    const FileFaults::Verdict verdict = faults_->Before(call);
    if (verdict.error == EINTR) continue;
    const size_t n = std::min(call.bytes, verdict.error != 0 && verdict.bytes == SIZE_MAX ? 0 : verdict.bytes);
    INCR_RETURN_IF_ERROR(WriteExactly(fd, static_cast<const char*>(data) + done, n, path));
    if (n > 0) Done(call);
    if (verdict.error != 0) return ErrnoStatus(verdict.error, Operation("write", path));
    if (n == 0) return ErrnoStatus(EIO, Operation("write", path));
    done += n;
  }
  return absl::OkStatus();
}

absl::Status FileIo::MakeDirectory(const std::string& path) const {
  const FileCall call{FileOp::kMakeDirectory, path};
  INCR_RETURN_IF_ERROR(Ask(call, "mkdir"));
  if (::mkdir(path.c_str(), 0700) == 0) {
    if (::chmod(path.c_str(), 0700) != 0) return ErrnoStatus(Operation("chmod", path));
    Done(call);
    return absl::OkStatus();
  }
  if (errno != EEXIST) return ErrnoStatus(Operation("mkdir", path));
  struct stat info;
  if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, " is there and no directory"));
}

absl::StatusOr<std::string> FileIo::ReadWhole(const std::string& path, size_t max_bytes) const {
  // O_NONBLOCK: a FIFO in its place must not make us wait for ever.
  INCR_ASSIGN_OR_RETURN(const ScopedFd fd, Open(path, O_RDONLY | O_NONBLOCK));
  INCR_ASSIGN_OR_RETURN(const struct stat info, StatOf(fd.get(), path));
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  if (static_cast<uint64_t>(info.st_size) > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", info.st_size, " bytes, at most ", max_bytes, " make sense"));
  }
  std::string content(info.st_size, '\0');
  INCR_ASSIGN_OR_RETURN(const size_t n,
                        PreadUpTo(fd.get(), content.data(), content.size(), 0, path));
  content.resize(n);
  return content;
}

absl::Status FileIo::WriteDurably(const std::string& path, absl::string_view content) const {
  const std::string temporary = absl::StrCat(path, ".tmp");
  // An older attempt may have left anything there.
  if (absl::Status gone = Unlink(temporary); !gone.ok() && !absl::IsNotFound(gone)) return gone;
  {
    INCR_ASSIGN_OR_RETURN(const ScopedFd fd, Open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600));
    INCR_RETURN_IF_ERROR(PwriteExactly(fd.get(), content.data(), content.size(), 0, temporary));
    INCR_RETURN_IF_ERROR(Sync(fd.get(), temporary));
  }
  INCR_RETURN_IF_ERROR(Rename(temporary, path));
  const size_t slash = path.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash + 1));
}

}  // namespace incr
