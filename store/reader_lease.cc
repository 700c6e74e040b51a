#include "store/reader_lease.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/checksum.h"

namespace incr {
namespace {

// u64 generation, "ICKG", u32 version, u64 checksum of these. The number comes first and alone makes the file of
// an older program.
constexpr size_t kMagicAt = 8, kVersionAt = 12, kSumAt = 16;
constexpr char kMagic[4] = {'I', 'C', 'K', 'G'};
constexpr size_t kNumberAlone = 8;
static_assert(kGenerationFileBytes == kSumAt + 8 && kGenerationVersion == 1);

std::string Encode(uint64_t generation) {
  std::string bytes;
  AppendLittle<uint64_t>(&bytes, generation);
  bytes.append(kMagic, sizeof kMagic);
  AppendLittle<uint32_t>(&bytes, kGenerationVersion);
  AppendLittle<uint64_t>(&bytes, Checksum64(bytes));
  return bytes;
}

absl::StatusOr<uint64_t> Decode(absl::string_view bytes, const std::string& path) {
  const bool checked = bytes.size() == kGenerationFileBytes &&
                       GetLittle<uint64_t>(bytes.data() + kSumAt) == Checksum64(bytes.substr(0, kSumAt)) &&
                       bytes.substr(kMagicAt, sizeof kMagic) == absl::string_view(kMagic, sizeof kMagic);
  if (checked && GetLittle<uint32_t>(bytes.data() + kVersionAt) != kGenerationVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is of a newer version: use a newer incr-ckpt"));
  }
  if (checked || bytes.size() == kNumberAlone) {
    const uint64_t number = GetLittle<uint64_t>(bytes.data());
    if (number < kLastGeneration) return number;
  }
  return absl::DataLossError(absl::StrCat(path, " is damaged; `incr-ckpt repair` makes it anew"));
}

// A store that no gc has seen has no such file: generation 0.
absl::StatusOr<uint64_t> ReadGeneration(const StorePaths& paths) {
  const std::string& path = paths.generation;
  absl::StatusOr<ScopedFd> fd = paths.io.Open(path, O_RDONLY | O_NONBLOCK);
  if (absl::IsNotFound(fd.status())) return 0;
  INCR_RETURN_IF_ERROR(fd.status());
  char bytes[kGenerationFileBytes + 1];
  INCR_ASSIGN_OR_RETURN(const size_t n, paths.io.PreadUpTo(fd->get(), bytes, sizeof bytes, 0, path));
  return Decode({bytes, n}, path);
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
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, paths.io.Open(paths.format, O_RDONLY));
  INCR_ASSIGN_OR_RETURN(uint64_t generation, ReadGeneration(paths));
  for (;;) {
    (void)FaultPoint("store.lease_before_lock");
    INCR_RETURN_IF_ERROR(SetLock(fd.get(), LockOf(F_RDLCK, generation, 1), paths.format));
    INCR_ASSIGN_OR_RETURN(const uint64_t now, ReadGeneration(paths));
    if (now == generation) return ReaderLease(std::move(fd));
    INCR_RETURN_IF_ERROR(SetLock(fd.get(), LockOf(F_UNLCK, generation, 1), paths.format));
    generation = now;
  }
}

absl::StatusOr<ReaderBarrier> ReaderBarrier::Open(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(ScopedFd format, paths.io.Open(paths.format, O_RDONLY));
  return ReaderBarrier(paths, std::move(format));
}

absl::StatusOr<uint64_t> ReaderBarrier::Advance() {
  INCR_ASSIGN_OR_RETURN(const uint64_t before, ReadGeneration(paths_));
  INCR_RETURN_IF_ERROR(paths_.io.WriteDurably(paths_.generation, Encode(before + 1)));
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
