// commit_count.h — no acknowledged commit goes missing without a word.
//
// RocksDB drops what lies behind a damaged place of its log, as it must after a power cut: the end
// was never synced. Damage further up it cannot tell from that. So every head counts up in the
// database, and once it is durable the count goes to the file `commits` as well:
//
//   head batch (epoch, head, count n), synced -> `commits` says n, synced -> acknowledged
//
// A database that has counted less than the file lost commits that were acknowledged. No file (a
// store of an older program): nothing to compare with.
//
// For the writer, under its lock: a StoreReader never looks. Not thread-safe.
#ifndef INCR_CKPT_STORE_COMMIT_COUNT_H_
#define INCR_CKPT_STORE_COMMIT_COUNT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "store/file_io.h"
#include "store/kv_db.h"
#include "store/store_directory.h"

namespace incr {

inline constexpr uint32_t kCommitFileVersion = 1;
inline constexpr size_t kCommitSlotBytes = 4096;  // two slots, written in turn

// What the database has counted; 0 if no head of it ever did.
absl::StatusOr<uint64_t> CommitCount(const KvDb& db);
void AddCommitCount(KvBatch* batch, uint64_t count);

// What the file says; none if there is no file. kDataLoss: neither slot is whole.
absl::StatusOr<std::optional<uint64_t>> ReadCommitFile(const std::string& path, FileIo io = FileIo());

// kDataLoss if a slot that was written is not whole. The other one counts then, so it is no harm yet.
absl::Status CheckCommitSlots(const std::string& path, FileIo io = FileIo());

class CommitFile {
 public:
  // `count`: the database's. Makes the file, saying that, if there is none.
  static absl::StatusOr<CommitFile> Open(const std::string& path, uint64_t count,
                                         FileIo io = FileIo());

  // Replaces a damaged file: nothing but `count` is known.
  static absl::Status Renew(const std::string& path, uint64_t count, FileIo io);

  // Durable when it returns OK. After an error the file says less than it could, which only
  // weakens the check.
  absl::Status Write(uint64_t count);
  // What the database must have counted at least.
  uint64_t count() const { return count_; }

 private:
  CommitFile(FileIo io, std::string path, ScopedFd fd, int slot, uint64_t count)
      : io_(io), path_(std::move(path)), fd_(std::move(fd)), slot_(slot), count_(count) {}

  FileIo io_;
  std::string path_;
  ScopedFd fd_;
  int slot_;  // holds what is durable: the other one is written next
  uint64_t count_;
};

// kDataLoss that names the store and both counts, if `counted` is less than `acknowledged`.
absl::Status CheckCommitCount(const StorePaths& paths, uint64_t counted, uint64_t acknowledged);

// The store's database for writing, without the damaged end of its log, if any. kDataLoss if
// that takes acknowledged commits along; a damaged log is then left as it was.
absl::StatusOr<std::unique_ptr<KvDb>> OpenCheckedDatabase(
    const StorePaths& paths, const KvOptions& options = KvOptions());

}  // namespace incr

#endif  // INCR_CKPT_STORE_COMMIT_COUNT_H_
