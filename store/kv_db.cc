// With rocks_files.cc and kv_salvage.cc the only file that includes RocksDB.
#include "store/kv_db.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/signals_blocked.h"
#include "base/status.h"
#include "store/rocks_files.h"

namespace incr {
namespace {

constexpr const char* kTableNames[kKvTables] = {"pages",  "packs",  "manifests",
                                                "images", "epochs", "jobs"};

constexpr absl::string_view kIngestPrefix = "ingest";

rocksdb::Slice ToSlice(absl::string_view s) { return {s.data(), s.size()}; }
absl::string_view ToView(const rocksdb::Slice& s) { return {s.data(), s.size()}; }

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  absl::StatusCode code = absl::StatusCode::kInternal;
  if (status.IsNotFound()) code = absl::StatusCode::kNotFound;
  if (status.IsCorruption()) code = absl::StatusCode::kDataLoss;
  if (status.IsNoSpace()) code = absl::StatusCode::kResourceExhausted;
  return absl::Status(code, absl::StrCat(what, ": ", status.ToString()));
}

// RocksDB would otherwise keep LOG files in the store.
class SilentLogger : public rocksdb::Logger {
 public:
  SilentLogger() : rocksdb::Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::ColumnFamilyOptions TableOptions(KvTable table,
                                          const std::shared_ptr<rocksdb::Cache>& cache,
                                          const KvOptions& settings) {
  rocksdb::ColumnFamilyOptions options;
  // Every flush and compaction makes a reader that is just opening start over: not too small.
  options.write_buffer_size = std::min<size_t>(settings.write_buffer_bytes / 2,
                                               table == KvTable::kImages ? 16u << 20 : 8u << 20);
  options.max_write_buffer_number = 3;
  rocksdb::BlockBasedTableOptions blocks;
  blocks.block_cache = cache;
  blocks.format_version = 5;
  if (settings.bounded_index) {
    blocks.cache_index_and_filter_blocks = true;
    // One filter of a large table file is megabytes: read and cached in parts.
    blocks.partition_filters = true;
    blocks.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
    blocks.metadata_block_size = 16u << 10;
  }
  // Page ids are random and large values are chunks: only text-like records gain.
  const bool text = table == KvTable::kImages || table == KvTable::kEpochs;
  options.compression = text ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
  if (table == KvTable::kPages) {
    blocks.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
    options.target_file_size_base = 16u << 20;
    // Ingested files are small, and their random ids overlap all there is: they are merged with their like, two dozen at
    // a time, not every four of them into the large rest. (More would be cheaper still to write; a restore that looks up
    // all of a process has to merge them.)
    options.compaction_style = rocksdb::kCompactionStyleUniversal;
    options.compaction_options_universal.size_ratio = 25;
    options.level0_file_num_compaction_trigger = 24;
    options.level0_slowdown_writes_trigger = 48;
    options.level0_stop_writes_trigger = 64;
  }
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(blocks));
  return options;
}

// By default a small cache has shards of half a megabyte: a filter of a table file does not fit into one.
constexpr int kCacheShardBits = 1;

bool IsReadOnly(KvDb::Mode mode) {
  return mode == KvDb::Mode::kReadOnly || mode == KvDb::Mode::kReadOnlyWhole;
}

rocksdb::DBOptions DatabaseOptions(KvDb::Mode mode, const KvOptions& settings,
                                   rocksdb::Env* env) {
  rocksdb::DBOptions options;
  options.env = env;
  options.create_if_missing = mode == KvDb::Mode::kCreate;
  options.create_missing_column_families = mode == KvDb::Mode::kCreate;
  options.info_log = std::make_shared<SilentLogger>();
  // -1 opens every table file at once: a reader keeps its snapshot though a live
  // writer's compaction unlinks them.
  options.max_open_files = -1;
  options.max_background_jobs = 2;
  // A reader that opens replays the log: with 32 MiB that was most of listing 10,000 epochs.
  options.max_total_wal_size = 8u << 20;
  options.db_write_buffer_size = settings.write_buffer_bytes;
  options.allow_fallocate = false;  // It would reserve megabytes for a store of kilobytes.
  options.manifest_preallocation_size = 64u << 10;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.bytes_per_sync = 1u << 20;
  // A power cut leaves any part of the log's unsynced end, with holes in it: only point-in-time
  // recovery opens that. It drops all behind the first hole; whether something acknowledged was
  // among it is for commit_count.h to find.
  const bool whole = mode == KvDb::Mode::kReadWrite || mode == KvDb::Mode::kReadOnlyWhole;
  options.wal_recovery_mode = whole ? rocksdb::WALRecoveryMode::kAbsoluteConsistency
                                    : rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  return options;
}

struct OpenDb {
  std::unique_ptr<rocksdb::DB> db;  // null: closed
  std::vector<rocksdb::ColumnFamilyHandle*> handles;  // [0] is RocksDB's default, unused

  ~OpenDb() { Close(); }
  void Close() {
    if (db) {
      for (auto* handle : handles) db->DestroyColumnFamilyHandle(handle);
      // Nothing to lose here: what matters was synced, and the log brings the rest back.
      db->Close().PermitUncheckedError();
      db.reset();
    }
    handles.clear();
  }
};

rocksdb::Status OpenOnce(const std::string& path, KvDb::Mode mode, const KvOptions& settings,
                         rocksdb::Env* env, OpenDb* out) {
  const AllSignalsBlocked for_its_threads;  // RocksDB starts them when it opens.
  auto cache = rocksdb::NewLRUCache(settings.cache_bytes, kCacheShardBits);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  families.emplace_back(rocksdb::kDefaultColumnFamilyName,
                        TableOptions(KvTable::kJobs, cache, settings));
  for (int i = 0; i < kKvTables; ++i) {
    families.emplace_back(kTableNames[i], TableOptions(static_cast<KvTable>(i), cache, settings));
  }
  rocksdb::DB* db = nullptr;
  const rocksdb::DBOptions options = DatabaseOptions(mode, settings, env);
  rocksdb::Status status =
      IsReadOnly(mode)
          ? rocksdb::DB::OpenForReadOnly(options, path, families, &out->handles, &db)
          : rocksdb::DB::Open(options, path, families, &out->handles, &db);
  out->db.reset(db);
  return status;
}

// Name and size of the MANIFEST: it grows before any log or table file goes away.
std::string ManifestMark(FileIo io, const std::string& path) {
  absl::StatusOr<std::string> current = io.ReadWhole(absl::StrCat(path, "/CURRENT"), 4096);
  if (!current.ok()) return "";
  while (!current->empty() && current->back() == '\n') current->pop_back();
  struct stat info;
  if (::stat(absl::StrCat(path, "/", *current).c_str(), &info) != 0) return "";
  return absl::StrCat(*current, " ", info.st_size);
}

// Beside a live writer, files may vanish between being listed and being read: a vanished
// log is no error to RocksDB, only silently less data. So: again until nothing moved meanwhile.
absl::Status OpenSnapshot(const std::string& path, KvDb::Mode mode, const KvOptions& settings,
                          rocksdb::Env* env, OpenDb* out) {
  constexpr int64_t kPatienceUs = 15'000'000;
  const Stopwatch time;
  rocksdb::Status status;
  for (int i = 0, failures_at_rest = 0; failures_at_rest < 3 && time.elapsed_us() < kPatienceUs;
       ++i) {
    if (i > 0) absl::SleepFor(absl::Milliseconds(i % 16));
    out->Close();
    const std::string before = ManifestMark(settings.io, path);
    status = OpenOnce(path, mode, settings, env, out);
    const bool at_rest = ManifestMark(settings.io, path) == before;
    if (status.ok() && at_rest && !before.empty()) return absl::OkStatus();
    if (at_rest) ++failures_at_rest;
  }
  out->Close();
  if (status.ok()) return absl::UnavailableError(absl::StrCat(path, ": changes too fast to read"));
  return FromRocks(status, absl::StrCat("open ", path));
}

class RocksKvDb : public KvDb {
 public:
  RocksKvDb(std::string path, Mode mode, const KvOptions& settings)
      : path_(std::move(path)), mode_(mode), settings_(settings), env_(NewRocksEnv(settings.io)) {}

  absl::Status Start() {
    if (IsReadOnly(mode_)) return OpenSnapshot(path_, mode_, settings_, env_.get(), &open_);
    RemoveUningested();
    const rocksdb::Status status = OpenOnce(path_, mode_, settings_, env_.get(), &open_);
    if (!status.ok()) open_.Close();
    return FromRocks(status, absl::StrCat("open ", path_));
  }

  absl::StatusOr<std::string> Get(KvTable table, absl::string_view key) const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    std::string value;
    INCR_RETURN_IF_ERROR(FromRocks(
        open_.db->Get(rocksdb::ReadOptions(), Handle(table), ToSlice(key), &value), Name(table)));
    return value;
  }

  absl::Status MultiGet(KvTable table, absl::Span<const absl::string_view> keys,
                        absl::FunctionRef<absl::Status(size_t, absl::string_view)> found)
      const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    constexpr size_t kGroup = 512;
    std::vector<rocksdb::Slice> slices;
    std::vector<rocksdb::PinnableSlice> values(std::min(kGroup, keys.size()));
    std::vector<rocksdb::Status> statuses(values.size());
    for (size_t first = 0; first < keys.size(); first += kGroup) {
      const size_t n = std::min(kGroup, keys.size() - first);
      slices.clear();
      for (size_t i = 0; i < n; ++i) slices.push_back(ToSlice(keys[first + i]));
      open_.db->MultiGet(rocksdb::ReadOptions(), Handle(table), n, slices.data(), values.data(),
                         statuses.data(), /*sorted_input=*/true);
      for (size_t i = 0; i < n; ++i) {
        if (statuses[i].IsNotFound()) continue;
        INCR_RETURN_IF_ERROR(FromRocks(statuses[i], Name(table)));
        INCR_RETURN_IF_ERROR(found(first + i, ToView(values[i])));
        values[i].Reset();
      }
    }
    return absl::OkStatus();
  }

  absl::Status Scan(KvTable table, absl::string_view prefix,
                    absl::FunctionRef<absl::Status(absl::string_view, absl::string_view)> row)
      const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    options.readahead_size = prefix.empty() ? 1u << 20 : 0;
    std::unique_ptr<rocksdb::Iterator> it(open_.db->NewIterator(options, Handle(table)));
    for (it->Seek(ToSlice(prefix)); it->Valid() && it->key().starts_with(ToSlice(prefix));
         it->Next()) {
      INCR_RETURN_IF_ERROR(row(ToView(it->key()), ToView(it->value())));
    }
    return FromRocks(it->status(), Name(table));
  }

  absl::Status ScanSome(KvTable table, absl::string_view first, size_t max_rows,
                        absl::FunctionRef<absl::Status(absl::string_view, absl::string_view)> row)
      const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    options.readahead_size = 1u << 20;
    std::unique_ptr<rocksdb::Iterator> it(open_.db->NewIterator(options, Handle(table)));
    size_t rows = 0;
    for (it->Seek(ToSlice(first)); it->Valid() && rows < max_rows; it->Next(), ++rows) {
      INCR_RETURN_IF_ERROR(row(ToView(it->key()), ToView(it->value())));
    }
    return FromRocks(it->status(), Name(table));
  }

  absl::StatusOr<std::string> NextKey(KvTable table, absl::string_view first) const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    std::unique_ptr<rocksdb::Iterator> it(
        open_.db->NewIterator(rocksdb::ReadOptions(), Handle(table)));
    it->Seek(ToSlice(first));
    INCR_RETURN_IF_ERROR(FromRocks(it->status(), Name(table)));
    if (!it->Valid()) return absl::NotFoundError(absl::StrCat(Name(table), ": no such key"));
    return it->key().ToString();
  }

  absl::StatusOr<std::string> LastKey(KvTable table, absl::string_view prefix) const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    std::unique_ptr<rocksdb::Iterator> it(
        open_.db->NewIterator(rocksdb::ReadOptions(), Handle(table)));
    it->SeekForPrev(absl::StrCat(prefix, std::string(64, '\xff')));
    INCR_RETURN_IF_ERROR(FromRocks(it->status(), Name(table)));
    if (!it->Valid() || !it->key().starts_with(ToSlice(prefix))) {
      return absl::NotFoundError(absl::StrCat(Name(table), ": no such key"));
    }
    return it->key().ToString();
  }

  size_t EstimateRows(KvTable table) const override {
    absl::ReaderMutexLock lock(&mutex_);
    uint64_t rows = 0;
    if (open_.db) open_.db->GetIntProperty(Handle(table), "rocksdb.estimate-num-keys", &rows);
    return rows;
  }

  std::vector<std::string> UnknownFiles() const override {
    absl::ReaderMutexLock lock(&mutex_);
    std::set<std::string> known;
    std::vector<rocksdb::LiveFileMetaData> live;
    if (open_.db) open_.db->GetLiveFilesMetaData(&live);
    for (const rocksdb::LiveFileMetaData& file : live) known.insert(file.relative_filename);
    std::vector<std::string> unknown;
    std::vector<std::string> names;
    (void)rocksdb::Env::Default()->GetChildren(path_, &names);
    for (const std::string& name : names) {
      if (absl::EndsWith(name, ".sst") && known.count(name) == 0) unknown.push_back(name);
    }
    return unknown;
  }

  absl::Status VerifyFiles() const override {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    const rocksdb::Status status = open_.db->VerifyChecksum(rocksdb::ReadOptions());
    // It opens them by name: a live writer's compaction may have taken one away.
    if (status.IsPathNotFound() || status.IsNotFound()) return absl::OkStatus();
    return FromRocks(status, path_);
  }

  absl::Status Write(const KvBatch& batch, bool sync) override {
    INCR_RETURN_IF_ERROR(EnsureHealthy());
    return Damaging([&]() -> absl::Status {
      INCR_RETURN_IF_ERROR(FaultPoint("store.kv_write"));
      rocksdb::WriteBatch writes(batch.bytes() + 32 * batch.puts().size());
      for (const KvBatch::Put& put : batch.puts()) {
        INCR_RETURN_IF_ERROR(FromRocks(AddTo(&writes, put), Name(put.table)));
      }
      rocksdb::WriteOptions options;
      options.sync = sync;
      INCR_RETURN_IF_ERROR(
          FromRocks(open_.db->Write(options, &writes), absl::StrCat("write ", path_)));
      return FaultPoint("store.kv_write_unsure");
    });
  }

  absl::StatusOr<std::unique_ptr<SortedFile>> PrepareIngest(
      KvTable table, size_t count,
      absl::FunctionRef<std::pair<absl::string_view, absl::string_view>(size_t)> row) override {
    INCR_RETURN_IF_ERROR(EnsureHealthy());
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    auto file = std::make_unique<SortedFile>(table, absl::StrCat(path_, "/", kIngestPrefix, ++ingests_, ".tmp"),
                                             settings_.io);
    const std::string what = absl::StrCat("write ", file->path());
    rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), open_.db->GetOptions(Handle(table)), Handle(table));
    INCR_RETURN_IF_ERROR(FromRocks(writer.Open(file->path()), what));
    for (size_t i = 0; i < count; ++i) {
      const auto [key, value] = row(i);
      INCR_RETURN_IF_ERROR(FromRocks(writer.Put(ToSlice(key), ToSlice(value)), what));
    }
    INCR_RETURN_IF_ERROR(FromRocks(writer.Finish(), what));
    return file;
  }

  absl::Status Ingest(std::unique_ptr<SortedFile> file) override {
    INCR_RETURN_IF_ERROR(EnsureHealthy());
    return Damaging([&]() -> absl::Status {
      INCR_RETURN_IF_ERROR(FaultPoint("store.kv_write"));
      rocksdb::IngestExternalFileOptions options;
      options.move_files = true;
      options.failed_move_fall_back_to_copy = true;
      INCR_RETURN_IF_ERROR(
          FromRocks(open_.db->IngestExternalFile(Handle(file->table()), {file->path()}, options),
                    absl::StrCat("ingest ", file->path())));
      return FaultPoint("store.kv_write_unsure");
    });
  }

  absl::Status DeleteAll(KvTable table) override {
    INCR_RETURN_IF_ERROR(EnsureHealthy());
    return Damaging([&] {
      rocksdb::WriteOptions options;
      options.sync = true;
      const std::string end(64, '\xff');  // Longer than any key that this is used for.
      return FromRocks(open_.db->DeleteRange(options, Handle(table), "", end), Name(table));
    });
  }

  absl::Status Compact() override {
    INCR_RETURN_IF_ERROR(EnsureHealthy());
    return Damaging([&]() -> absl::Status {
      // All at once: the log goes only when no table needs it.
      INCR_RETURN_IF_ERROR(FromRocks(open_.db->Flush(rocksdb::FlushOptions(), open_.handles),
                                     absl::StrCat("flush ", path_)));
      rocksdb::CompactRangeOptions options;
      options.exclusive_manual_compaction = false;
      options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
      for (rocksdb::ColumnFamilyHandle* handle : open_.handles) {
        INCR_RETURN_IF_ERROR(FromRocks(open_.db->CompactRange(options, handle, nullptr, nullptr),
                                       absl::StrCat("compact ", path_)));
      }
      return absl::OkStatus();
    });
  }

  absl::Status Sync() override {
    INCR_RETURN_IF_ERROR(EnsureHealthy());
    return Damaging([&] { return FromRocks(open_.db->FlushWAL(/*sync=*/true), path_); });
  }

  absl::Status EnsureHealthy() override {
    if (!broken_.load(std::memory_order_acquire) && !FailedBehindOurBack()) {
      return absl::OkStatus();
    }
    absl::MutexLock lock(&mutex_);
    if (!broken_.load(std::memory_order_relaxed)) return absl::OkStatus();
    open_.Close();
    const rocksdb::Status status = OpenOnce(path_, Mode::kReadWriteCutLog, settings_, env_.get(), &open_);
    if (!status.ok()) {
      // A full disk, mostly: opening for writing needs room. What is committed stays readable.
      open_.Close();
      if (!OpenOnce(path_, Mode::kReadOnly, settings_, env_.get(), &open_).ok()) open_.Close();
      return FromRocks(status, absl::StrCat("reopen ", path_, " after a failed write"));
    }
    broken_.store(false, std::memory_order_release);
    return absl::OkStatus();
  }

 private:
  // A flush or compaction that failed, long ago maybe, makes RocksDB refuse the next write: the disk may be good again.
  bool FailedBehindOurBack() {
    absl::ReaderMutexLock lock(&mutex_);
    uint64_t errors = 0;
    if (!open_.db || IsReadOnly(mode_) ||
        !open_.db->GetIntProperty(rocksdb::DB::Properties::kBackgroundErrors, &errors) ||
        errors == 0) {
      return false;
    }
    broken_.store(true, std::memory_order_release);
    return true;
  }
  // Runs a write; after an error the database must be opened anew.
  absl::Status Damaging(absl::FunctionRef<absl::Status()> write) {
    absl::ReaderMutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(CheckOpen());
    INCR_CHECK(!IsReadOnly(mode_));
    const absl::Status status = write();
    if (!status.ok()) broken_.store(true, std::memory_order_release);
    return status;
  }
  rocksdb::Status AddTo(rocksdb::WriteBatch* writes, const KvBatch::Put& put) const {
    switch (put.op) {
      case KvBatch::Op::kPut:
        return writes->Put(Handle(put.table), put.key, put.value);
      case KvBatch::Op::kDelete:
        return writes->Delete(Handle(put.table), put.key);
      case KvBatch::Op::kDeleteRange:
        return writes->DeleteRange(Handle(put.table), put.key, put.value);
    }
    return rocksdb::Status::InvalidArgument();
  }
  absl::Status CheckOpen() const {
    if (open_.db) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(path_, ": closed by an earlier failure"));
  }
  rocksdb::ColumnFamilyHandle* Handle(KvTable table) const {
    return open_.handles[static_cast<int>(table) + 1];
  }
  std::string Name(KvTable table) const {
    return absl::StrCat(path_, " (", kTableNames[static_cast<int>(table)], ")");
  }
  // What a crash left of them. (Nothing can refer to one: a file that was ingested has another name.)
  void RemoveUningested() const {
    std::vector<std::string> names;
    (void)rocksdb::Env::Default()->GetChildren(path_, &names);
    for (const std::string& name : names) {
      if (absl::StartsWith(name, kIngestPrefix)) (void)settings_.io.Unlink(absl::StrCat(path_, "/", name));
    }
  }

  const std::string path_;
  const Mode mode_;
  const KvOptions settings_;
  const std::unique_ptr<rocksdb::Env> env_;
  mutable absl::Mutex mutex_;  // exclusive: the database is being opened anew
  std::atomic<uint64_t> ingests_{0};
  OpenDb open_;
  std::atomic<bool> broken_{false};
};

}  // namespace

const char* KvTableName(KvTable table) { return kTableNames[static_cast<int>(table)]; }

absl::StatusOr<std::unique_ptr<KvDb>> KvDb::Open(const std::string& path, Mode mode,
                                                 const KvOptions& options) {
  auto db = std::make_unique<RocksKvDb>(path, mode, options);
  INCR_RETURN_IF_ERROR(db->Start());
  return db;
}

absl::Status KvDb::Repair(const std::string& path, FileIo io) {
  const std::unique_ptr<rocksdb::Env> env = NewRocksEnv(io);
  auto cache = rocksdb::NewLRUCache(8u << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, TableOptions(KvTable::kJobs, cache, KvOptions()));
  for (int i = 0; i < kKvTables; ++i) {
    families.emplace_back(kTableNames[i], TableOptions(static_cast<KvTable>(i), cache, KvOptions()));
  }
  const rocksdb::Status status =
      rocksdb::RepairDB(path, DatabaseOptions(Mode::kCreate, KvOptions(), env.get()), families);
  const absl::Status said = FromRocks(status, absl::StrCat("repair ", path));
  // Whatever is no error of the disk lies in what was read.
  return said.ok() || status.IsIOError() ? said : absl::DataLossError(said.message());
}

}  // namespace incr
