// store.h — start here: pages by content, epochs by number, made durable.
//
// Knows nothing of processes. One writer per store (a flock on <dir>/lock), any
// number of readers, which never need the lock.
//
// Order (invariant 2): pack segments durable -> index -> manifest and image -> the job's
// head, each only after what it refers to. Only committed segments are ever
// deduplicated against; tails that a crash left uncommitted are never trusted.
//
// Every error names the store's directory or file and the way out.
#ifndef INCR_CKPT_STORE_STORE_H_
#define INCR_CKPT_STORE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/page_range.h"
#include "proto/epoch.pb.h"
#include "store/file_io.h"
#include "store/gc_options.h"
#include "store/page_id.h"
#include "store/page_table.h"
#include "store/table_diff.h"

namespace incr {

struct StoreOptions {
  bool create_if_missing = false;  // only an absent or empty directory becomes a store
  bool paranoid = false;           // compare bytes on every deduplication hit
  size_t buffer_bytes = 64u << 20;  // pages accepted but not yet written: the back-pressure bound
  int workers = 0;                  // compressing threads; 0: one per core
  uint32_t full_table_every = 64;   // deltas in a chain before a full table is written; more if they are tiny
  uint64_t pack_bytes = 256u << 20;  // a pack this long gets no further segment
  size_t max_known_pages = 16u << 20;  // ids in memory, about 36 bytes each; more: in the database
  size_t cache_bytes = 8u << 20;          // RocksDB's blocks; with bounded_index its indexes and filters too
  size_t write_buffer_bytes = 32u << 20;  // RocksDB's writes that are only in its log so far
  bool bounded_index = false;
  FileFaults* faults = nullptr;  // for tests: a faulty disk; outlives the store
};

// Sets what `options` keeps in memory so that all of it together stays within `limit_bytes` (memory_plan.h).
// kInvalidArgument: too little.
absl::Status LimitMemory(uint64_t limit_bytes, StoreOptions* options);

class EpochImporter;
class EpochWriter;

// Thread-safe reads. Open one per process and directory. While it lives, gc deletes nothing that its
// snapshot refers to: close it, or Refresh, when what was wanted has been read.
class StoreReader {
 public:
  virtual ~StoreReader() = default;

  // A snapshot of what was committed when it was opened (Refresh() for a newer one).
  // kNotFound: no such directory; kFailedPrecondition: not a store, or of a newer version.
  // kPermissionDenied: another user's.
  static absl::StatusOr<std::unique_ptr<StoreReader>> Open(const std::string& directory,
                                                           FileFaults* faults = nullptr);
  // Moves on to what is committed now. On an error the older snapshot stays. (A Store needs none.)
  virtual absl::Status Refresh();

  virtual std::vector<std::string> ListJobs() const = 0;
  // By epoch number. kNotFound names the job.
  virtual absl::StatusOr<std::vector<pb::EpochRecord>> ListEpochs(absl::string_view job) const = 0;
  // kNotFound names job and epoch and says which epochs there are.
  virtual absl::StatusOr<pb::EpochRecord> GetEpoch(absl::string_view job, uint64_t epoch) const = 0;
  // Of the highest number. kNotFound: no such job, or no epochs.
  virtual absl::StatusOr<pb::EpochRecord> LatestEpoch(absl::string_view job) const;
  // The image's bytes as given to Commit, checksum verified.
  virtual absl::StatusOr<std::string> ReadImage(absl::string_view job, uint64_t epoch) const = 0;
  // The whole table: the chain's deltas overlaid.
  virtual absl::StatusOr<PageTable> LoadPageTable(absl::string_view job, uint64_t epoch) const = 0;

  // Which pages differ, going from one epoch to another. Of neighbours in a chain only what lies between is
  // read, if that tells.
  virtual absl::StatusOr<PageChanges> ComparePages(absl::string_view job, uint64_t before,
                                                   uint64_t after) const;

  // Reads the bodies of `ids` in an order that suits the packs, verifies each page
  // against its id, and calls `sink(i, page)` once for every i in [0, ids.size()),
  // from this thread. Zero pages come too. A page whose hash is wrong: kDataLoss that
  // names pack and offset, and it is never handed out. A sink error ends the read.
  virtual absl::Status ReadPages(
      absl::Span<const PageId> ids,
      absl::FunctionRef<absl::Status(size_t index, const uint8_t* page)> sink) const = 0;
};

// The writer. Thread-safe, except that each job has one epoch in the making at a time.
class Store : public StoreReader {
 public:
  // kFailedPrecondition "locked" when another process writes to it. Recovers after a
  // crash: committed epochs are whole, the rest is forgotten. kDataLoss: acknowledged commits are
  // missing in the database, or it does not open.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& directory,
                                                     const StoreOptions& options);

  // `parent` 0: a chain of its own; otherwise a committed epoch of `job` (kNotFound if
  // not). The new epoch's number is the job's highest + 1. Job names:
  // [A-Za-z0-9._-]{1,64}, else kInvalidArgument.
  virtual absl::StatusOr<std::unique_ptr<EpochWriter>> BeginEpoch(absl::string_view job,
                                                                  uint64_t parent) = 0;

  // Epochs of another store, which get `job`'s next numbers. The job is busy meanwhile.
  virtual absl::StatusOr<std::unique_ptr<EpochImporter>> BeginImport(absl::string_view job);

  // Drops the epochs that `options.policy` does not keep, and then what only they referred
  // to. Epochs may be written and read meanwhile. After an error, at any point, every
  // epoch that stays is whole, and it can be run again. kInvalidArgument: a policy without a rule;
  // kNotFound: no such job or epoch; kFailedPrecondition: it is running already.
  virtual absl::StatusOr<GcResult> CollectGarbage(const GcOptions& options);
};

// One epoch in the making. Not thread-safe. Must not outlive its Store.
class EpochWriter {
 public:
  virtual ~EpochWriter() = default;  // Uncommitted: as if it had never been.

  virtual uint64_t epoch() const = 0;

  // `bytes`: range.count pages, copied before return. A page given twice: the last wins.
  // Hashing, compression and writing go on behind; blocks while `buffer_bytes` are in
  // flight. Errors of the background come back from a later call.
  virtual absl::Status AddPages(uint32_t space, PageRange range, const uint8_t* bytes) = 0;

  // These pages have no content of their own any more. Last call wins against AddPages.
  virtual absl::Status AddGone(uint32_t space, PageRange range) = 0;

  // Waits until what was added so far is hashed, compressed and given to the disk, so that the
  // workers leave the CPUs alone for a while. An error comes back from here or from a later call.
  virtual absl::Status Settle() = 0;

  // Durable when it returns OK; any error: nothing was committed. (One exception: the disk failed in
  // the very last write and the database could not be opened again either; then the next
  // BeginEpoch finds out, and this epoch, whole, is in the list or not.) `record`: job,
  // epoch, parent, table_pages and the page counts and bytes_stored of stats are filled in here; the rest
  // is the caller's. Pages whose id equals the parent's table entry stay out of the manifest
  // but count as pages_written and pages_deduplicated.
  // Call once, last.
  virtual absl::StatusOr<pb::EpochRecord> Commit(pb::EpochRecord record,
                                                 absl::string_view image) = 0;
};

// Epochs from elsewhere, taken in all together or not at all. Not thread-safe. Must not outlive its Store.
// Memory: about 100 bytes for each page added, and one table.
class EpochImporter {
 public:
  virtual ~EpochImporter() = default;  // Uncommitted: as if it had never been.

  // Pages are numbered from 1 as they come. Copied before return.
  virtual absl::Status AddPages(const uint8_t* pages, size_t count) = 0;

  // After all pages. `table`: its ids are {0, number of the page}. `record.parent`: 0, or the number in the
  // other store of an epoch added before. Returns its record as it will be here.
  virtual absl::StatusOr<pb::EpochRecord> AddEpoch(pb::EpochRecord record, PageTable table,
                                                   absl::string_view image) = 0;

  // Durable when it returns OK; any error: nothing was taken in (but see EpochWriter::Commit).
  virtual absl::Status Commit() = 0;

  virtual uint64_t pages_stored() const = 0;  // after Commit
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_STORE_H_
