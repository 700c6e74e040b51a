#include "restore/sources.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "restore/check.h"

namespace incr {
namespace {

absl::StatusOr<ScopedFd> MoveAbove(ScopedFd fd, int first_fd, const std::string& what) {
  if (fd.get() >= first_fd) return fd;
  ScopedFd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, first_fd));
  if (!moved.ok()) return ErrnoStatus(absl::StrCat("fcntl(F_DUPFD, ", what, ")"));
  return moved;
}

}  // namespace

absl::StatusOr<ScopedFd> OpenSavedFile(const pb::FileIdentity& identity, bool writable,
                                       bool must_be_same) {
  // O_NONBLOCK: a hostile path may name a FIFO.
  auto fd = OpenFile(identity.path(), (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY);
  if (!fd.ok()) {
    if (!absl::IsNotFound(fd.status())) return fd.status();
    return absl::FailedPreconditionError(
        absl::StrCat(identity.path(), ", which the process has mapped, is missing"));
  }
  struct statx found{};
  if (::statx(fd->get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found) != 0) {
    return ErrnoStatus(absl::StrCat("statx(", identity.path(), ")"));
  }
  // A shared file may have grown, or have been written by others; pages beyond its end
  // would be lost.
  const uint64_t min_size = S_ISREG(found.stx_mode) ? identity.size() : 0;
  const bool same_content = must_be_same && S_ISREG(found.stx_mode);
  INCR_RETURN_IF_ERROR(CheckFileIdentity(identity, found, same_content, min_size));
  return fd;
}

namespace {

// /proc/<pid>/exe must be a regular file that may be executed.
ScopedFd OpenProgram(const std::string& path) {
  absl::StatusOr<ScopedFd> fd = OpenFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  struct stat found;
  if (!fd.ok() || ::fstat(fd->get(), &found) != 0 || !S_ISREG(found.st_mode) ||
      (found.st_mode & 0111) == 0) {
    return ScopedFd();
  }
  return *std::move(fd);
}

// Shared anonymous memory has no name to open: it is mapped here, opened through the
// kernel's link to the mapping, and shows in the restored process as it did before. (A memfd
// would show as one.)
absl::StatusOr<ScopedFd> NewSharedAnonymous(uint64_t size) {
  void* memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("mmap(shared anonymous, ", size, " bytes)"));
  }
  const uint64_t start = reinterpret_cast<uint64_t>(memory);
  auto fd = OpenFile(absl::StrFormat("/proc/self/map_files/%x-%x", start, start + size), O_RDWR);
  ::munmap(memory, size);
  return fd;
}

}  // namespace

absl::StatusOr<OpenSources> OpenPlanSources(const RestorePlan& plan, const pb::FileIdentity& exe,
                                            bool exe_may_differ, int first_fd) {
  OpenSources result;
  for (const PlannedSource& source : plan.sources) {
    const bool is_file = source.kind == PlannedSource::kFile;
    INCR_ASSIGN_OR_RETURN(ScopedFd fd,
                          is_file ? OpenSavedFile(source.file, source.writable, source.must_be_same)
                                  : NewSharedAnonymous((source.size + 4095) & ~uint64_t{4095}));
    INCR_ASSIGN_OR_RETURN(
        fd, MoveAbove(std::move(fd), first_fd, is_file ? source.file.path() : "shared memory"));
    result.fds.push_back(std::move(fd));
  }
  absl::StatusOr<ScopedFd> fd = OpenSavedFile(exe, /*writable=*/false, /*must_be_same=*/true);
  if (!fd.ok()) {
    if (!exe_may_differ) return fd.status();
    result.exe_is_other = std::string(fd.status().message());
    fd = OpenProgram(exe.path());
    if (!fd->ok()) return result;
  }
  INCR_ASSIGN_OR_RETURN(result.exe, MoveAbove(*std::move(fd), first_fd, exe.path()));
  return result;
}

}  // namespace incr
