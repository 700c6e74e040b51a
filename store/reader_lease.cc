#include "store/reader_lease.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/status.h"
#include "store/byte_order.h"

namespace incr {
namespace {

constexpr size_t kGenerationBytes = 8;  // one u64

absl::StatusOr<uint64_t> ReadGeneration(int fd, const std::string& path) {
  char bytes[kGenerationBytes];
  INCR_ASSIGN_OR_RETURN(const size_t n, PreadUpTo(fd, bytes, sizeof bytes, 0, path));
  const uint64_t generation = n < sizeof bytes ? UINT64_MAX : GetLittle<uint64_t>(bytes);
  if (generation < kLastGeneration) return generation;
  return absl::DataLossError(
      absl::StrCat(path, " is damaged; `incr-ckpt repair` makes it anew"));
}

// A store that no gc has seen has no such file: generation 0.
absl::StatusOr<uint64_t> ReadGeneration(const std::string& path) {
  absl::StatusOr<ScopedFd> fd = OpenFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (absl::IsNotFound(fd.status())) return 0;
  INCR_RETURN_IF_ERROR(fd.status());
  return ReadGeneration(fd->get(), path);
}

struct flock LockOf(short type, uint64_t first, uint64_t bytes) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(first);
  lock.l_len = static_cast<off_t>(bytes);
  return lock;
}

absl::Status SetLock(int fd, struct flock lock, const std::string& path) {
  while (::fcntl(fd, F_OFD_SETLKW, &lock) != 0) {
    if (errno != EINTR) return ErrnoStatus(absl::StrCat("lock(", path, ")"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ReaderLease> ReaderLease::Take(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(paths.format, O_RDONLY | O_NOFOLLOW));
  INCR_ASSIGN_OR_RETURN(uint64_t generation, ReadGeneration(paths.generation));
  for (;;) {
    (void)FaultPoint("store.lease_before_lock");
    INCR_RETURN_IF_ERROR(SetLock(fd.get(), LockOf(F_RDLCK, generation, 1), paths.format));
    INCR_ASSIGN_OR_RETURN(const uint64_t now, ReadGeneration(paths.generation));
    if (now == generation) return ReaderLease(std::move(fd));
    INCR_RETURN_IF_ERROR(SetLock(fd.get(), LockOf(F_UNLCK, generation, 1), paths.format));
    generation = now;
  }
}

absl::StatusOr<ReaderBarrier> ReaderBarrier::Open(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(ScopedFd format, OpenFile(paths.format, O_RDONLY | O_NOFOLLOW));
  return ReaderBarrier(paths, std::move(format));
}

absl::StatusOr<uint64_t> ReaderBarrier::Advance() {
  const std::string& path = paths_.generation;
  const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK;
  absl::StatusOr<ScopedFd> file = OpenFile(path, flags);
  if (absl::IsNotFound(file.status())) {
    INCR_RETURN_IF_ERROR(paths_.io.WriteDurably(path, std::string(kGenerationBytes, '\0')));
    file = OpenFile(path, flags);
  }
  INCR_RETURN_IF_ERROR(file.status());
  INCR_ASSIGN_OR_RETURN(const uint64_t before, ReadGeneration(file->get(), path));
  char bytes[kGenerationBytes];
  PutLittle<uint64_t>(bytes, before + 1);
  // In place: a reader sees the old or the new. Not synced: no reader outlives a power cut.
  INCR_RETURN_IF_ERROR(PwriteExactly(file->get(), bytes, sizeof bytes, 0, path));
  return before;
}

absl::StatusOr<bool> ReaderBarrier::HasReadersUpTo(uint64_t generation) const {
  // Asked for an exclusive lock, which needs no permission to write as long as it is only asked for.
  struct flock lock = LockOf(F_WRLCK, 0, generation + 1);
  if (::fcntl(format_.get(), F_OFD_GETLK, &lock) != 0) {
    return ErrnoStatus(absl::StrCat("getlk(", paths_.format, ")"));
  }
  return lock.l_type != F_UNLCK;
}

}  // namespace incr
