// Which page ids nothing refers to, and their way out of the index.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/gc.h"
#include "store/page_index.h"

namespace incr {
namespace {

constexpr size_t kScanRows = 64u << 10;
// Ids dropped at once: commits and look-ups wait that long, some milliseconds.
constexpr size_t kDropIds = 4096;

std::string KeyOf(const PageId& id) {
  char key[kPageIdBytes];
  EncodePageId(id, key);
  return std::string(key, sizeof key);
}

}  // namespace

absl::Status GcRun::Sweep() {
  INCR_ASSIGN_OR_RETURN(lengths_, ReadPackLengths(*store_.view_->db));
  use_.clear();
  result_.pages_kept = 0;
  const uint64_t rows = store_.view_->db->EstimateRows(KvTable::kPages) + 1;
  // One filter for all ids if it fits, else range by range, each with a reading of all manifests.
  const uint32_t parts = (rows * IdFilter::kBytesPerId - 1) / options_.max_filter_bytes + 1;
  for (uint32_t part = 0; part < parts; ++part) {
    IdFilter filter(PartOfAllIds(part, parts), rows / parts);
    absl::Cleanup stop = [this] { store_.known_->StopWatching(); };
    if (!options_.dry_run) {
      // Between two commits: a manifest is either marked below, or its ids were put in as it came.
      absl::MutexLock commits(&store_.commit_mutex_);
      store_.known_->Watch(&filter);
    }
    INCR_RETURN_IF_ERROR(Mark(&filter));
    INCR_RETURN_IF_ERROR(FaultPoint("store.gc_after_mark"));
    INCR_RETURN_IF_ERROR(SweepRange(filter, /*drop=*/!options_.dry_run));
  }
  return FaultPoint("store.gc_after_sweep");
}

absl::Status GcRun::Mark(IdFilter* filter) const {
  INCR_ASSIGN_OR_RETURN(const std::vector<std::string> jobs, store_.view_->catalog.JobsWithEpochs());
  for (const std::string& job : jobs) {
    const auto planned = dropped_.find(job);
    // Dropped epochs are still there in a dry run only, or if somebody came to use them.
    INCR_ASSIGN_OR_RETURN(
        const JobView view,
        LookAt(job, options_.dry_run && planned != dropped_.end() ? planned->second
                                                                  : std::set<uint64_t>()));
    uint64_t done = 0;
    for (const ChainStep& step : view.steps) {
      if (done++ % 64 == 0) INCR_RETURN_IF_ERROR(Progress("marking", done, view.steps.size()));
      absl::StatusOr<PageDelta> delta = ReadCombined(job, step.combine);
      if (!delta.ok()) {
        return Annotate(delta.status(),
                        "nothing was deleted, since it is not known what this refers to (repair, or a "
                        "policy that does not keep it, gets it out of the way)");
      }
      for (const PageTableEntry& entry : delta->written) filter->Insert(entry.id);
    }
  }
  return absl::OkStatus();
}

absl::Status GcRun::SweepRange(const IdFilter& filter, bool drop) {
  std::vector<PageId> dead;
  std::string from = KeyOf({filter.range().first, 0});
  PageId last{filter.range().first, 0};
  const uint64_t span = filter.range().last - filter.range().first;
  for (bool more = true; more;) {
    dead.clear();
    size_t rows = 0;
    bool beyond = false;
    INCR_RETURN_IF_ERROR(store_.view_->db->ScanSome(
        KvTable::kPages, from, kScanRows, [&](absl::string_view key, absl::string_view value) {
          ++rows;
          if (key.size() != kPageIdBytes) return absl::OkStatus();
          const PageId id = DecodePageId(key.data());
          if (beyond = beyond || !filter.range().Covers(id); beyond) return absl::OkStatus();
          last = id;
          const absl::StatusOr<PageLocation> location = DecodeLocation(value);
          if (filter.MayContain(id)) {
            ++result_.pages_kept;
            if (!location.ok()) return absl::OkStatus();
            PackUse& use = use_[location->pack];
            use.bytes += location->length;
            ++use.entries;
          } else {
            dead.push_back(id);
          }
          return absl::OkStatus();
        }));
    from = KeyOf(last) + '\0';
    more = rows == kScanRows && !beyond;
    if (drop) {
      INCR_RETURN_IF_ERROR(DropIds(dead));
    } else if (options_.dry_run) {
      result_.pages_dropped += dead.size();
    }
    INCR_RETURN_IF_ERROR(Progress(drop ? "sweeping" : "counting",
                                  (last.high - filter.range().first) / (span / 1000 + 1), 1000));
  }
  return absl::OkStatus();
}

absl::Status GcRun::DropIds(const std::vector<PageId>& ids) {
  for (size_t first = 0; first < ids.size(); first += kDropIds) {
    const absl::Span<const PageId> some =
        absl::MakeConstSpan(ids).subspan(first, kDropIds);
    // No commit in between: it might store such a page anew, and this would delete its entry.
    absl::MutexLock commits(&store_.commit_mutex_);
    INCR_RETURN_IF_ERROR(store_.known_->Drop(some, [&](const std::vector<PageId>& dropped) {
      KvBatch batch;
      for (const PageId& id : dropped) batch.Delete(KvTable::kPages, KeyOf(id));
      result_.pages_dropped += dropped.size();
      return store_.view_->db->Write(batch, /*sync=*/false);
    }));
    INCR_RETURN_IF_ERROR(FaultPoint("store.gc_in_sweep"));
  }
  return absl::OkStatus();
}

}  // namespace incr
