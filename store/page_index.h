// page_index.h — page id -> location of its body, in the database.
// Pure functions over KvDb; thread-safe.
#ifndef INCR_CKPT_STORE_PAGE_INDEX_H_
#define INCR_CKPT_STORE_PAGE_INDEX_H_

#include <map>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "store/kv_db.h"
#include "store/pack_format.h"
#include "store/pack_writer.h"

namespace incr {

struct IndexEntry {
  PageId id;
  PageLocation location;
};

// Up to this many new pages go through RocksDB's log, more become a sorted file of their own.
// A file per epoch at 100 small epochs a second would drown RocksDB in files; a batch for
// a large epoch writes every entry twice, and putting 13,107 of them into RocksDB's memory took 30 ms, one core waiting.
inline constexpr size_t kIngestEntries = 4096;

// What can be done of WriteIndex() before the packs' data are durable: `entries` are sorted, and from kIngestEntries on written
// into a file that is not yet part of the database.
struct PreparedIndex {
  std::unique_ptr<SortedFile> file;  // null: few entries
};
absl::StatusOr<PreparedIndex> PrepareIndex(KvDb& db, std::vector<IndexEntry>& entries);

// Makes `entries` (as PrepareIndex left them) and the packs' lengths part of the database. Durable with the next synced write
// at the latest. The packs' data must be durable before.
absl::Status WriteIndex(KvDb& db, absl::Span<const PackLength> lengths, const std::vector<IndexEntry>& entries,
                        PreparedIndex prepared);

// Both: makes `entries` (sorted here) and the packs' lengths part of the database. Durable with
// the next synced write at the latest. The packs' data must be durable before.
absl::Status WriteIndex(KvDb& db, absl::Span<const PackLength> lengths,
                        std::vector<IndexEntry>& entries);

// `ids` ascending. `found(i, location)` for those in the index.
absl::Status FindPages(const KvDb& db, absl::Span<const PageId> ids,
                       absl::FunctionRef<absl::Status(size_t i, const PageLocation&)> found);

// Every entry, by id. A damaged entry is skipped: its page is then not known.
absl::Status ForEachPage(const KvDb& db,
                         absl::FunctionRef<absl::Status(const IndexEntry&)> row);

// The pack is about to be deleted: no entry refers to it.
void AddForgetPack(KvBatch* batch, uint32_t pack);

// Durable length by pack.
absl::StatusOr<std::map<uint32_t, uint64_t>> ReadPackLengths(const KvDb& db);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_INDEX_H_
