// reader_lease.h — how a reader, in whatever process, keeps gc from deleting the packs it reads.
//
// A file `generation` counts gc's deletions. A reader holds a shared lock (fcntl, of an open file
// description) on the byte of FORMAT whose offset is the generation it began in:
//
//   reader                                gc
//   g = generation                        database no longer refers to the pack, durable
//   lock byte g, shared                   generation g -> g + 1
//   generation still g? else again        any lock on bytes 0..g? wait, or leave the pack
//   open a snapshot of the database       unlink the pack
//
// A reader that gc does not see has its lock in g + 1 or later, so its snapshot is newer
// than the change and knows nothing of the pack. Later readers never hold gc up. The kernel
// drops the lock of a reader that dies, and reading changes no file.
//
// Thread-safe.
#ifndef INCR_CKPT_STORE_READER_LEASE_H_
#define INCR_CKPT_STORE_READER_LEASE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "store/store_directory.h"

namespace incr {

inline constexpr uint32_t kGenerationVersion = 1;
inline constexpr size_t kGenerationFileBytes = 24;  // 8 in a store of an older program: the number alone
inline constexpr uint64_t kLastGeneration = uint64_t{1} << 62;  // offsets are signed; all are below

// Held until it is destroyed. Take it before the database is opened or looked at.
class ReaderLease {
 public:
  static absl::StatusOr<ReaderLease> Take(const StorePaths& paths);

 private:
  explicit ReaderLease(ScopedFd fd) : fd_(std::move(fd)) {}
  ScopedFd fd_;
};

// The writer's side. One per store, under the writer's lock.
class ReaderBarrier {
 public:
  static absl::StatusOr<ReaderBarrier> Open(const StorePaths& paths);

  // Begins a new generation; the first makes the file. Readers from before are those of the result and older.
  absl::StatusOr<uint64_t> Advance();
  absl::StatusOr<bool> HasReadersUpTo(uint64_t generation) const;

 private:
  ReaderBarrier(StorePaths paths, ScopedFd format)
      : paths_(std::move(paths)), format_(std::move(format)) {}
  StorePaths paths_;
  ScopedFd format_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_READER_LEASE_H_
