// epoch_walk.h — all epochs of a database in order, each with its page table, in the memory of one table; and
// which of their pages are in the index. What verify and repair share.
//
// A read that fails for another reason than damage is tried once more: a disk that fails once may not fail again.
//
// Not thread-safe.
#ifndef INCR_CKPT_STORE_EPOCH_WALK_H_
#define INCR_CKPT_STORE_EPOCH_WALK_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "store/catalog.h"
#include "store/kv_db.h"
#include "store/page_index.h"

namespace incr {

// Again if it fails, unless with kDataLoss.
absl::Status Twice(absl::FunctionRef<absl::Status()> read);

struct WalkedEpoch {
  const std::string& job;
  uint64_t epoch;
  const EpochEnvelope& envelope;
  const PageTable& table;
  const PageDelta& own;  // what its manifest says
};

// `whole` sees the epochs whose record, manifest and chain are whole; `broken` the others, and rows that are no
// epochs (job "", epoch 0). Only jobs and epochs for which `wanted` says so. An error: the scan itself failed.
absl::Status WalkEpochs(const KvDb& db, absl::FunctionRef<bool(absl::string_view job, uint64_t epoch)> wanted,
                        absl::FunctionRef<void(const WalkedEpoch&)> whole,
                        absl::FunctionRef<void(const std::string& job, uint64_t epoch, const absl::Status&)> broken);

// kDataLoss: a job's records end before its head or a delta's parent has none, and there are table files that the
// database does not know: the end of RocksDB's MANIFEST is lost, and records with it. What gc has removed is no such gap:
// a job's newest epoch stays, and so does the parent of every delta. Nor is what a repair has dropped: it has left word
// (Catalog::DroppedHead). A crash leaves unknown files, too, and a live writer's compaction has some in the making.
absl::Status CheckHeads(const KvDb& db);

// Every pack of `packs`, ascending, with the index entries that point into it, by offset. As many passes over
// the index as its share of memory needs. Entries that cannot be read are left out.
void ForEachPack(const KvDb& db, absl::Span<const uint32_t> packs,
                 absl::FunctionRef<void(uint32_t pack, absl::Span<const IndexEntry>)> visit);

// Pages that no intact body is known of.
class LostPages {
 public:
  // `index` outlives it.
  explicit LostPages(const KvDb* index) : index_(index) {}
  void Add(const PageId& id) { lost_.insert(id); }
  // Adds those of `written` that are not in the index. Every page of every table came in with some epoch's own
  // manifest: it is enough to look there.
  void AddMissing(const PageTable& written);
  bool empty() const { return lost_.empty(); }
  size_t size() const { return lost_.size(); }
  bool Has(const PageId& id) const { return !id.is_zero_page() && lost_.contains(id); }

 private:
  const KvDb* const index_;
  absl::flat_hash_set<PageId> lost_;
  absl::flat_hash_set<PageId> checked_;  // looked for in the index; forgotten when it gets large
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_EPOCH_WALK_H_
