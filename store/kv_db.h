// kv_db.h — the store's small facts in RocksDB: six tables of sorted keys, one log.
//
// A write that is not synced is ordered all the same: the log is a prefix after any crash, so
// one synced write makes all earlier ones durable.
//
// After a failed write RocksDB refuses further ones, and whether the failed one is in
// the log is unknown. EnsureHealthy() closes and opens again (kReadWriteCutLog), which settles it.
//
// Thread-safe. Keys and values handed to callbacks are valid during the call only.
#ifndef INCR_CKPT_STORE_KV_DB_H_
#define INCR_CKPT_STORE_KV_DB_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "store/file_io.h"

namespace incr {

enum class KvTable : int {
  kPages = 0,  // page id -> location
  kPacks,      // pack -> durable length
  kManifests,  // job, epoch, chunk -> bytes
  kImages,     // job, epoch, chunk -> bytes
  kEpochs,     // job, epoch -> envelope and EpochRecord
  kJobs,       // job -> head
};
inline constexpr int kKvTables = 6;
const char* KvTableName(KvTable table);

// Changes that become visible and durable together, in their order.
class KvBatch {
 public:
  enum class Op { kPut, kDelete, kDeleteRange };
  struct Put {
    KvTable table;
    std::string key, value;  // kDeleteRange: first key, and the first one to stay
    Op op = Op::kPut;
  };
  void Add(KvTable table, std::string key, std::string value) {
    bytes_ += key.size() + value.size();
    puts_.push_back({table, std::move(key), std::move(value)});
  }
  void Delete(KvTable table, std::string key) {
    bytes_ += key.size();
    puts_.push_back({table, std::move(key), "", Op::kDelete});
  }
  void DeleteRange(KvTable table, std::string first, std::string end) {
    bytes_ += first.size() + end.size();
    puts_.push_back({table, std::move(first), std::move(end), Op::kDeleteRange});
  }
  const std::vector<Put>& puts() const { return puts_; }
  size_t bytes() const { return bytes_; }

 private:
  std::vector<Put> puts_;
  size_t bytes_ = 0;
};

// Rows written but not part of the database. Removed, unless it is ingested, with this.
class SortedFile {
 public:
  SortedFile(KvTable table, std::string path, FileIo io) : table_(table), path_(std::move(path)), io_(io) {}
  SortedFile(const SortedFile&) = delete;
  ~SortedFile() { (void)io_.Unlink(path_); }
  KvTable table() const { return table_; }
  const std::string& path() const { return path_; }

 private:
  const KvTable table_;
  const std::string path_;
  const FileIo io_;
};

struct KvOptions {
  FileIo io{};
  size_t cache_bytes = 8u << 20;          // of blocks, shared by all tables
  size_t write_buffer_bytes = 32u << 20;  // of writes that are in the log only, all tables together
  // Indexes and Bloom filters live in the cache, too, instead of beside it, about 2 bytes a page.
  bool bounded_index = false;
};

class KvDb {
 public:
  enum class Mode {
    kCreate,           // as kReadWriteCutLog, and makes what is missing
    kReadWrite,        // a damaged log, even its very end: kDataLoss, and nothing is changed
    kReadWriteCutLog,  // what lies behind damage in the log is dropped, without a word
    kReadOnly,         // a snapshot up to any damage; works beside a live writer, changes no file
    kReadOnlyWhole,    // the same, but a damaged log, even its very end: kDataLoss
  };

  static absl::StatusOr<std::unique_ptr<KvDb>> Open(const std::string& path, Mode mode,
                                                    const KvOptions& options = KvOptions());
  // Salvages what it can from a database that does not open.
  static absl::Status Repair(const std::string& path, FileIo io = FileIo());

  virtual ~KvDb() = default;

  // kNotFound if there is none.
  virtual absl::StatusOr<std::string> Get(KvTable table, absl::string_view key) const = 0;
  // `keys` ascending. `found(i, value)` for those that exist; its error ends the call.
  virtual absl::Status MultiGet(
      KvTable table, absl::Span<const absl::string_view> keys,
      absl::FunctionRef<absl::Status(size_t i, absl::string_view value)> found) const = 0;
  // Ascending, every key that starts with `prefix`.
  virtual absl::Status Scan(
      KvTable table, absl::string_view prefix,
      absl::FunctionRef<absl::Status(absl::string_view key, absl::string_view value)> row)
      const = 0;
  // Ascending from `first` on, at most `max_rows` of them. Long scans in such pieces keep no
  // old state of the database alive and let writes in between.
  virtual absl::Status ScanSome(
      KvTable table, absl::string_view first, size_t max_rows,
      absl::FunctionRef<absl::Status(absl::string_view key, absl::string_view value)> row)
      const = 0;
  // The first key at or after `first`. kNotFound: none.
  virtual absl::StatusOr<std::string> NextKey(KvTable table, absl::string_view first) const = 0;
  // The highest key that starts with `prefix` and goes on for at most 64 bytes. kNotFound: none.
  virtual absl::StatusOr<std::string> LastKey(KvTable table, absl::string_view prefix) const = 0;
  virtual size_t EstimateRows(KvTable table) const = 0;
  // Table files in its directory that it does not know of: left by a crash, on their way beside a live writer,
  // or forgotten by a damaged MANIFEST.
  virtual std::vector<std::string> UnknownFiles() const = 0;
  // Reads every block of every table file. kDataLoss names the first damaged file and place.
  virtual absl::Status VerifyFiles() const = 0;

  virtual absl::Status Write(const KvBatch& batch, bool sync) = 0;
  // `row(i)` for i in [0, count), keys strictly ascending, into a file of its own, which nobody sees yet: an epoch of 262,144
  // pages cost a third of the CPU of a batch.
  virtual absl::StatusOr<std::unique_ptr<SortedFile>> PrepareIngest(
      KvTable table, size_t count,
      absl::FunctionRef<std::pair<absl::string_view, absl::string_view>(size_t i)> row) = 0;
  // It joins its table, whole and durable.
  virtual absl::Status Ingest(std::unique_ptr<SortedFile> file) = 0;
  virtual absl::Status DeleteAll(KvTable table) = 0;
  // Gives the space of what was deleted back. Needs about as much room as is left in the tables.
  virtual absl::Status Compact() = 0;
  // Makes all earlier writes durable.
  virtual absl::Status Sync() = 0;
  virtual absl::Status EnsureHealthy() = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_KV_DB_H_
