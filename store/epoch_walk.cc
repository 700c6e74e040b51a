#include "store/epoch_walk.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/byte_order.h"

namespace incr {
namespace {

constexpr size_t kIndexAtOnce = 4u << 20;    // entries in memory, 40 bytes each
constexpr size_t kCheckedAtOnce = 4u << 20;  // ids remembered as found

// The table of one epoch of a job, carried on to the next.
class HeldEpoch {
 public:
  explicit HeldEpoch(const Catalog& catalog) : catalog_(catalog) {}

  absl::Status MoveTo(const std::string& job, uint64_t epoch, EpochEnvelope* envelope, PageDelta* own) {
    const uint64_t held = job == job_ ? std::exchange(epoch_, 0) : 0;
    job_ = job;
    epoch_ = 0;
    INCR_ASSIGN_OR_RETURN(*envelope, catalog_.GetEpoch(job, epoch));
    INCR_ASSIGN_OR_RETURN(*own, catalog_.ReadManifest(job, epoch, *envelope));
    if (envelope->depth == 0) {
      table_ = Overlay({}, *own);
    } else if (held == 0 || held != envelope->record.parent() || depth_ + 1 != envelope->depth) {
      INCR_ASSIGN_OR_RETURN(table_, catalog_.LoadPageTable(job, epoch));
    } else if (!OverlayInPlace(table_, *own)) {
      table_ = Overlay(table_, *own);
    }
    if (table_.size() != envelope->record.table_pages()) {
      return absl::DataLossError(absl::StrCat("epoch ", epoch, " of job ", job, ": its table has ", table_.size(),
                                              " pages instead of ", envelope->record.table_pages()));
    }
    epoch_ = epoch;
    depth_ = envelope->depth;
    return absl::OkStatus();
  }
  const PageTable& table() const { return table_; }

 private:
  const Catalog& catalog_;
  std::string job_;
  uint64_t epoch_ = 0;  // 0: none
  uint32_t depth_ = 0;
  PageTable table_;
};

}  // namespace

absl::Status Twice(absl::FunctionRef<absl::Status()> read) {
  const absl::Status status = read();
  return status.ok() || absl::IsDataLoss(status) ? status : read();
}

absl::Status WalkEpochs(const KvDb& db, absl::FunctionRef<bool(absl::string_view job, uint64_t epoch)> wanted,
                        absl::FunctionRef<void(const WalkedEpoch&)> whole,
                        absl::FunctionRef<void(const std::string& job, uint64_t epoch, const absl::Status&)> broken) {
  const Catalog catalog(&db);
  HeldEpoch held(catalog);
  // Keys first: a database may not be asked from within its own scan.
  std::vector<std::pair<std::string, uint64_t>> epochs;
  int wrong_keys = 0;
  const absl::Status scan = Twice([&] {
    epochs.clear();
    wrong_keys = 0;
    return db.Scan(KvTable::kEpochs, "", [&](absl::string_view key, absl::string_view) {
      const size_t name = key.find('\0');
      if (name == absl::string_view::npos || key.size() != name + 9 || !IsValidJobName(key.substr(0, name))) {
        ++wrong_keys;
        return absl::OkStatus();
      }
      const uint64_t epoch = GetBig64(key.data() + name + 1);
      if (wanted(key.substr(0, name), epoch)) epochs.emplace_back(key.substr(0, name), epoch);
      return absl::OkStatus();
    });
  });
  for (; wrong_keys > 0; --wrong_keys) broken("", 0, absl::DataLossError("an epoch record under a wrong key"));
  for (const auto& [job, epoch] : epochs) {
    EpochEnvelope envelope;
    PageDelta own;
    const absl::Status status = Twice([&] { return held.MoveTo(job, epoch, &envelope, &own); });
    if (status.ok()) {
      whole({job, epoch, envelope, held.table(), own});
    } else {
      broken(job, epoch, status);
    }
  }
  return scan;
}

absl::Status CheckHeads(const KvDb& db) {
  const std::vector<std::string> unknown = db.UnknownFiles();
  if (unknown.empty()) return absl::OkStatus();
  std::vector<std::string> jobs;
  INCR_RETURN_IF_ERROR(db.Scan(KvTable::kJobs, "", [&](absl::string_view key, absl::string_view) {
    if (IsValidJobName(key)) jobs.emplace_back(key);
    return absl::OkStatus();
  }));
  const Catalog catalog(&db);
  const auto forgotten = [&](const std::string& what) {
    return absl::DataLossError(absl::StrCat(what, "; the database has forgotten ", unknown.size(),
                                            " of its files (", unknown[0], ")"));
  };
  for (const std::string& job : jobs) {
    const std::string prefix = job + std::string(1, '\0');
    INCR_ASSIGN_OR_RETURN(const uint64_t head, catalog.Head(job));
    std::set<uint64_t> epochs;
    INCR_RETURN_IF_ERROR(db.Scan(KvTable::kEpochs, prefix, [&](absl::string_view key, absl::string_view value) {
      if (key.size() != prefix.size() + 8) return absl::OkStatus();
      epochs.insert(GetBig64(key.data() + prefix.size()));
      const absl::StatusOr<EpochEnvelope> envelope = DecodeEnvelope(value);
      if (!envelope.ok() || envelope->depth == 0 || epochs.count(envelope->record.parent()) != 0) {
        return absl::OkStatus();
      }
      return forgotten(absl::StrCat("job ", job, " has no record of epoch ", envelope->record.parent()));
    }));
    INCR_ASSIGN_OR_RETURN(const uint64_t dropped, catalog.DroppedHead(job));
    if (head != dropped && (epochs.empty() || *epochs.rbegin() < head)) {
      return forgotten(absl::StrCat("job ", job, " has no record of its last epoch, ", head));
    }
  }
  return absl::OkStatus();
}

void ForEachPack(const KvDb& db, absl::Span<const uint32_t> packs,
                 absl::FunctionRef<void(uint32_t pack, absl::Span<const IndexEntry>)> visit) {
  std::map<uint32_t, size_t> counts;
  // A scan that breaks off is named by whoever verifies the index; here its rest is only not there.
  (void)Twice([&] {
    counts.clear();
    return ForEachPage(db, [&](const IndexEntry& entry) {
      ++counts[entry.location.pack];
      return absl::OkStatus();
    });
  });
  while (!packs.empty()) {
    size_t sum = 0, n = 0;
    while (n < packs.size() && (n == 0 || sum + counts[packs[n]] <= kIndexAtOnce)) sum += counts[packs[n++]];
    std::vector<IndexEntry> entries;
    entries.reserve(sum);
    (void)Twice([&] {
      entries.clear();
      return ForEachPage(db, [&](const IndexEntry& entry) {
        const uint32_t pack = entry.location.pack;
        if (pack >= packs[0] && pack <= packs[n - 1]) entries.push_back(entry);
        return absl::OkStatus();
      });
    });
    std::sort(entries.begin(), entries.end(), [](const IndexEntry& a, const IndexEntry& b) {
      return a.location.pack != b.location.pack ? a.location.pack < b.location.pack
                                                : a.location.offset < b.location.offset;
    });
    auto next = entries.begin();
    for (const uint32_t pack : packs.subspan(0, n)) {
      while (next != entries.end() && next->location.pack < pack) ++next;
      const auto first = next;
      while (next != entries.end() && next->location.pack == pack) ++next;
      visit(pack, absl::MakeConstSpan(entries).subspan(first - entries.begin(), next - first));
    }
    packs.remove_prefix(n);
  }
}

void LostPages::AddMissing(const PageTable& written) {
  std::vector<PageId> ids;
  for (const PageTableEntry& entry : written) {
    if (!entry.id.is_zero_page() && checked_.insert(entry.id).second) ids.push_back(entry.id);
  }
  std::sort(ids.begin(), ids.end());
  std::vector<bool> found(ids.size());
  const auto all = FindPages(*index_, ids, [&](size_t i, const PageLocation&) {
    found[i] = true;
    return absl::OkStatus();
  });
  for (size_t i = 0; i < ids.size() && !all.ok(); ++i) {
    // One by one: an unreadable block of the index must not hide the rest.
    (void)FindPages(*index_, {&ids[i], 1}, [&](size_t, const PageLocation&) {
      found[i] = true;
      return absl::OkStatus();
    });
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!found[i]) lost_.insert(ids[i]);
  }
  if (checked_.size() > kCheckedAtOnce) checked_.clear();
}

}  // namespace incr
