// gc on a full disk. Sweeping the index writes about 40 bytes a page before any pack can go; here packs
// go first, and nothing is written.
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/gc.h"
#include "store/page_index.h"

namespace incr {
namespace {

constexpr size_t kScanRows = 4096;

}  // namespace

// Deletes packs in which no manifest refers to anything. Their entries stay in the index until
// Sweep() has room: nothing refers to those ids, and one whose pack is gone is not known, so such a
// page is stored anew when it comes again. The record of the pack stays until then, too, so
// that its number is not given to another.
absl::Status GcRun::FreeDeadPacks() {
  const uint64_t rows = store_.view_->db->EstimateRows(KvTable::kPages) + 1;
  if (rows * IdFilter::kBytesPerId > options_.max_filter_bytes) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(lengths_, ReadPackLengths(*store_.view_->db));
  use_.clear();
  IdFilter filter(PartOfAllIds(0, 1), rows);
  absl::Cleanup stop = [this] { store_.known_->StopWatching(); };
  {
    absl::MutexLock commits(&store_.commit_mutex_);
    store_.known_->Watch(&filter);
  }
  INCR_RETURN_IF_ERROR(Mark(&filter));
  INCR_RETURN_IF_ERROR(SweepRange(filter, /*drop=*/false));
  std::set<uint32_t> packs;
  for (const uint32_t pack : DeadPacks()) {
    if (store_.packs_->Retire(pack, lengths_.at(pack))) packs.insert(pack);
  }
  if (packs.empty()) return absl::OkStatus();
  // First for those who look into the database, then for those who know by heart.
  const std::vector<PackLength> were = store_.packs_->Forget({packs.begin(), packs.end()});
  // As good as they were, no better: one may be short, or gone since an earlier run. And who came since
  // may need them again.
  absl::Cleanup remember = [&] {
    for (const PackLength& length : were) {
      if (packs.count(length.pack) == 0) continue;
      store_.packs_->Committed({length});
      store_.unread_from_.erase(length.pack);
    }
  };
  INCR_ASSIGN_OR_RETURN(const std::set<uint32_t> alive, ForgetIdsIn(packs));
  std::set<uint32_t> dead = packs;
  for (const uint32_t pack : alive) dead.erase(pack);
  INCR_RETURN_IF_ERROR(store_.view_->db->Sync());
  INCR_RETURN_IF_ERROR(AwaitReaders(&dead));
  result_.packs_waiting = result_.bytes_waiting = 0;  // They are counted again later.
  for (const uint32_t pack : dead) packs.erase(pack);
  INCR_RETURN_IF_ERROR(FaultPoint("store.gc_before_delete"));
  return UnlinkPacks(dead);
}

// Returns the packs of which an epoch in the making has come to need a page.
absl::StatusOr<std::set<uint32_t>> GcRun::ForgetIdsIn(const std::set<uint32_t>& packs) {
  std::set<uint32_t> alive;
  std::string from;
  for (size_t rows = SIZE_MAX; rows != 0;) {
    rows = 0;
    std::map<PageId, uint32_t> inside;
    INCR_RETURN_IF_ERROR(store_.view_->db->ScanSome(
        KvTable::kPages, from, kScanRows, [&](absl::string_view key, absl::string_view value) {
          ++rows;
          from.assign(key.data(), key.size());
          const absl::StatusOr<PageLocation> location = DecodeLocation(value);
          if (key.size() == kPageIdBytes && location.ok() && packs.count(location->pack) != 0) {
            inside[DecodePageId(key.data())] = location->pack;
          }
          return absl::OkStatus();
        }));
    from.push_back('\0');
    std::vector<PageId> ids;
    for (const auto& [id, pack] : inside) ids.push_back(id);
    absl::MutexLock commits(&store_.commit_mutex_);
    INCR_RETURN_IF_ERROR(store_.known_->Drop(ids, [&](const std::vector<PageId>& dropped) {
      for (const PageId& id : dropped) inside.erase(id);
      return absl::OkStatus();
    }));
    for (const auto& [id, pack] : inside) alive.insert(pack);
  }
  return alive;
}

}  // namespace incr
