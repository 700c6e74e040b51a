// RocksDB holding the page bodies: the same ids, zero test and knowledge of what is stored, on all cores; bodies as values
// under their ids, LZ4 by RocksDB, a manifest of the page table's changes beside them.
//
// Tuned: write buffers of 128 MiB, four of them (an epoch fits: no flush in its midst); two threads for flush and
// compaction, two sub-compactions; batches of 64 pages from every core; level 0 up to 8 files before compaction, no slow-down
// before 40; no second copy of values in a compaction's way for BlobDB; blocks of 16 KiB (4 pages).
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "benchmarks/store_speed/contender.h"
#include "benchmarks/store_speed/hashing.h"
#include "store/pack_format.h"

namespace incr::store_speed {
namespace {

constexpr size_t kBlock = 64;

absl::Status FromRocks(const rocksdb::Status& status) {
  return status.ok() ? absl::OkStatus() : absl::InternalError(absl::StrCat("RocksDB: ", status.ToString()));
}

std::string KeyOf(const PageId& id) {
  char key[kPageIdBytes];
  EncodePageId(id, key);
  return std::string(key, sizeof key);
}

rocksdb::Options OptionsFor(RocksVariant variant) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kLZ4Compression;
  options.write_buffer_size = 128u << 20;
  options.max_write_buffer_number = 4;
  options.max_background_jobs = 2;
  options.max_subcompactions = 2;
  options.level0_file_num_compaction_trigger = 8;
  options.level0_slowdown_writes_trigger = 40;
  options.level0_stop_writes_trigger = 60;
  options.target_file_size_base = 128u << 20;
  options.max_bytes_for_level_base = 1u << 30;
  options.max_total_wal_size = 1u << 30;
  options.bytes_per_sync = options.wal_bytes_per_sync = 1u << 20;
  options.info_log_level = rocksdb::FATAL_LEVEL;
  rocksdb::BlockBasedTableOptions table;
  table.block_size = 16u << 10;
  table.format_version = 5;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  if (variant == RocksVariant::kBlobFlush) {
    options.enable_blob_files = true;
    options.min_blob_size = 1024;
    options.blob_compression_type = rocksdb::kLZ4Compression;
    options.blob_file_size = 256u << 20;
  }
  return options;
}

struct Body {
  PageId id;
  const uint8_t* page;
};

class Rocks : public Contender {
 public:
  Rocks(std::string directory, RocksVariant variant, std::unique_ptr<rocksdb::DB> db)
      : directory_(std::move(directory)), variant_(variant), db_(std::move(db)) {}

  absl::Status Write(const EpochPages& epoch) override {
    ++epoch_;
    std::vector<std::pair<uint64_t, const uint8_t*>> pages;
    for (const Run& run : epoch.runs) {
      for (uint64_t i = 0; i < run.range.count; ++i) pages.emplace_back(run.range.first + i, run.bytes + i * kPageSize);
    }
    std::vector<PageId> ids(pages.size());
    std::vector<Body> fresh;
    std::atomic<size_t> next{0};
    absl::Status error;
    std::mutex mutex;
    OnAllCores([&](unsigned) {
      for (size_t first; (first = next.fetch_add(kBlock)) < pages.size();) {
        const size_t end = std::min(first + kBlock, pages.size());
        const absl::Status status = StoreBlock(pages, first, end, &ids, &mutex, &fresh);
        const std::lock_guard lock(mutex);
        if (!status.ok()) error = status;
      }
    });
    INCR_RETURN_IF_ERROR(error);
    if (variant_ == RocksVariant::kSstIngest) INCR_RETURN_IF_ERROR(Ingest(fresh));
    return Commit(pages, ids);
  }

 private:
  rocksdb::WriteOptions Unsynced() const {
    rocksdb::WriteOptions options;
    options.disableWAL = variant_ == RocksVariant::kFlush || variant_ == RocksVariant::kBlobFlush;
    return options;
  }

  absl::Status StoreBlock(const std::vector<std::pair<uint64_t, const uint8_t*>>& pages, size_t first, size_t end,
                          std::vector<PageId>* ids, std::mutex* mutex, std::vector<Body>* fresh) {
    for (size_t i = first; i < end; ++i) {
      if (!PageHasher::IsZeroPage(pages[i].second)) (*ids)[i] = hasher_.Hash(pages[i].second);
    }
    rocksdb::WriteBatch batch;
    std::vector<Body> ours;
    {
      const std::lock_guard lock(*mutex);
      for (size_t i = first; i < end; ++i) {
        if (!(*ids)[i].is_zero_page() && known_.insert((*ids)[i]).second) ours.push_back({(*ids)[i], pages[i].second});
      }
      if (variant_ == RocksVariant::kSstIngest) {
        fresh->insert(fresh->end(), ours.begin(), ours.end());
        return absl::OkStatus();
      }
    }
    for (const Body& body : ours) {
      batch.Put(KeyOf(body.id), rocksdb::Slice(reinterpret_cast<const char*>(body.page), kPageSize));
    }
    return FromRocks(db_->Write(Unsynced(), &batch));
  }

  // One sorted table file a core, side by side, joined together.
  absl::Status Ingest(std::vector<Body>& fresh) {
    if (fresh.empty()) return absl::OkStatus();
    std::sort(fresh.begin(), fresh.end(), [](const Body& a, const Body& b) { return a.id < b.id; });
    const size_t parts = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::string> paths;
    for (size_t part = 0; part < parts; ++part) paths.push_back(absl::StrCat(directory_, "/", epoch_, "-", part, ".tmp"));
    std::vector<absl::Status> statuses(parts);
    OnAllCores([&](unsigned part) {
      rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), db_->GetOptions());
      statuses[part] = FromRocks(writer.Open(paths[part]));
      for (size_t i = fresh.size() * part / parts; i < fresh.size() * (part + 1) / parts && statuses[part].ok(); ++i) {
        statuses[part] = FromRocks(writer.Put(
            KeyOf(fresh[i].id), rocksdb::Slice(reinterpret_cast<const char*>(fresh[i].page), kPageSize)));
      }
      if (statuses[part].ok()) statuses[part] = FromRocks(writer.Finish());  // synced
    });
    for (const absl::Status& status : statuses) INCR_RETURN_IF_ERROR(status);
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    return FromRocks(db_->IngestExternalFile(paths, options));
  }

  absl::Status Commit(const std::vector<std::pair<uint64_t, const uint8_t*>>& pages, const std::vector<PageId>& ids) {
    std::string manifest;
    for (size_t i = 0; i < ids.size(); ++i) {
      manifest.push_back(static_cast<char>(i == 0 ? 0 : pages[i].first - pages[i - 1].first));
      manifest += KeyOf(ids[i]);
    }
    rocksdb::WriteBatch batch;
    batch.Put(absl::StrCat("manifest-", epoch_), manifest);
    rocksdb::WriteOptions options = Unsynced();
    options.sync = !options.disableWAL;
    INCR_RETURN_IF_ERROR(FromRocks(db_->Write(options, &batch)));
    return options.disableWAL ? FromRocks(db_->Flush(rocksdb::FlushOptions())) : absl::OkStatus();
  }

  const std::string directory_;
  const RocksVariant variant_;
  const PageHasher hasher_ = BenchmarkHasher();
  std::unordered_set<PageId, IdHash> known_;
  int epoch_ = 0;
  const std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

const char* RocksName(RocksVariant variant) {
  switch (variant) {
    case RocksVariant::kWalSync: return "WAL, synced";
    case RocksVariant::kFlush: return "no WAL, flushed";
    case RocksVariant::kBlobFlush: return "BlobDB, no WAL, flushed";
    case RocksVariant::kSstIngest: return "sorted files, ingested";
  }
  return "";
}

absl::StatusOr<std::unique_ptr<Contender>> NewRocks(const std::string& directory, RocksVariant variant) {
  rocksdb::DB* db = nullptr;
  INCR_RETURN_IF_ERROR(FromRocks(rocksdb::DB::Open(OptionsFor(variant), directory, &db)));
  return std::make_unique<Rocks>(directory, variant, std::unique_ptr<rocksdb::DB>(db));
}

}  // namespace incr::store_speed
