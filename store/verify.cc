#include "store/verify.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/catalog.h"
#include "store/commit_count.h"
#include "store/epoch_walk.h"
#include "store/kv_db.h"
#include "store/pack_check.h"
#include "store/pack_reader.h"
#include "store/pack_set.h"
#include "store/page_index.h"
#include "store/reader_lease.h"
#include "store/store_directory.h"
#include "store/worker_pool.h"

namespace incr {
namespace {

bool ByPlace(const IndexEntry& a, const IndexEntry& b) {
  return a.location.pack != b.location.pack ? a.location.pack < b.location.pack
                                            : a.location.offset < b.location.offset;
}

class Verifier {
 public:
  Verifier(const StorePaths& paths, StoreIdentity identity, const VerifyOptions& options)
      : paths_(paths),
        identity_(std::move(identity)),
        options_(options),
        hasher_(identity_.secret),
        reader_(paths.packs, &hasher_, paths.io),
        workers_(0),
        checker_(paths.packs, identity_.tag, &reader_, &workers_, [this](uint64_t bytes) { Advance(bytes); },
                 paths.io) {}

  absl::StatusOr<VerifyReport> Run() {
    INCR_RETURN_IF_ERROR(TakeLease());
    // Before the snapshot: a live writer counts in the database first.
    const absl::StatusOr<std::optional<uint64_t>> acknowledged = CheckCommitFile();
    absl::StatusOr<std::unique_ptr<KvDb>> db = KvDb::Open(paths_.db, KvDb::Mode::kReadOnly, {paths_.io});
    if (!db.ok()) {
      Add({"db", 0, 0, absl::StrCat("does not open: ", db.status().message())});
      CheckPacksAlone();
      return std::move(report_);
    }
    db_ = *std::move(db);
    catalog_ = std::make_unique<Catalog>(db_.get());
    lost_ = std::make_unique<LostPages>(db_.get());
    if (options_.job.empty()) {
      if (acknowledged.ok()) CheckCounts(acknowledged->value_or(0));
      if (count_damaged_) CheckLogEnd();
      if (const absl::Status files = db_->VerifyFiles(); !files.ok()) AddDatabase(files);
      if (const absl::Status heads = CheckHeads(*db_); !heads.ok()) AddDatabase(heads);
      CheckPacks();
    } else {
      INCR_RETURN_IF_ERROR(CheckScope());
      CheckScopedBodies();
    }
    CheckEpochs();
    if (report_.epoch != 0 && report_.epochs == 0 && report_.ok()) {
      return absl::NotFoundError(absl::StrCat("job ", options_.job, " has no epoch ", report_.epoch));
    }
    NameGonePacks();
    return std::move(report_);
  }

 private:
  // A live gc must not delete packs under our eyes.
  absl::Status TakeLease() {
    absl::StatusOr<ReaderLease> lease = ReaderLease::Take(paths_);
    if (absl::IsDataLoss(lease.status())) {
      Add({"generation", 0, 0, std::string(lease.status().message())});
      return absl::OkStatus();
    }
    INCR_RETURN_IF_ERROR(lease.status());
    lease_ = *std::move(lease);
    return absl::OkStatus();
  }
  void Advance(uint64_t bytes) {
    progress_.bytes += bytes;
    if (options_.progress) options_.progress(progress_);
  }
  void Add(Damage damage) {
    ++report_.damage_count;
    if (report_.damage.size() < kMostDamages) report_.damage.push_back(std::move(damage));
  }
  void AddDatabase(const absl::Status& status) { Add({"db", 0, 0, std::string(status.message())}); }

  absl::StatusOr<std::optional<uint64_t>> CheckCommitFile() {
    absl::StatusOr<std::optional<uint64_t>> count = ReadCommitFile(paths_.commits, paths_.io);
    const absl::Status whole = count.ok() ? CheckCommitSlots(paths_.commits, paths_.io) : count.status();
    count_damaged_ = !whole.ok();
    if (count_damaged_) Add({"commits", 0, 0, std::string(whole.message())});
    return count;
  }

  // A power cut damages it, too, and then nothing acknowledged is behind that: the count would tell.
  void CheckLogEnd() {
    const absl::Status log = KvDb::Open(paths_.db, KvDb::Mode::kReadOnlyWhole, {paths_.io}).status();
    if (!absl::IsDataLoss(log)) return;
    Add({"db", 0, 0,
         absl::StrCat("its log is damaged, and the count of commits, which would tell whether acknowledged epochs are "
                      "missing, as well: ", log.message())});
  }

  void CheckCounts(uint64_t acknowledged) {
    const absl::StatusOr<uint64_t> counted = CommitCount(*db_);
    if (!counted.ok()) return AddDatabase(counted.status());
    if (*counted >= acknowledged) return;
    Add({"db", 0, 0,
         absl::StrCat(acknowledged, " commits were acknowledged, the database knows ", *counted, ": ",
                      acknowledged - *counted, " epochs are missing")});
  }

  // No index and no lengths: what the packs say of themselves.
  void CheckPacksAlone() {
    const absl::StatusOr<std::vector<uint32_t>> packs = ListPacks(paths_.packs);
    if (!packs.ok()) return Add({"packs", 0, 0, std::string(packs.status().message())});
    std::map<uint32_t, uint64_t> sizes;
    for (const uint32_t pack : *packs) {
      struct stat info = {};
      (void)::lstat(absl::StrCat(paths_.packs, "/", PackName(pack)).c_str(), &info);
      sizes[pack] = info.st_size;
      progress_.total_bytes += info.st_size;
    }
    for (const auto& [pack, size] : sizes) Take(checker_.Check(pack, size, {}));
  }

  void Take(PackCheck check) {
    report_.segments += check.segments;
    report_.pages += check.bodies;
    report_.bytes += check.bytes;
    ++report_.packs;
    for (PackDamage& damage : check.damage) {
      Add({absl::StrCat("packs/", PackName(damage.pack)), damage.offset, damage.bytes, std::move(damage.what)});
    }
  }

  // Packs in order, each against its part of the index.
  void CheckPacks() {
    const absl::StatusOr<std::map<uint32_t, uint64_t>> lengths = ReadPackLengths(*db_);
    if (!lengths.ok()) {
      AddDatabase(lengths.status());
      return CheckPacksAlone();
    }
    CheckIndex(*lengths);
    std::vector<uint32_t> packs;
    for (const auto& [pack, length] : *lengths) {
      packs.push_back(pack);
      progress_.total_bytes += length;
    }
    ForEachPack(*db_, packs, [&](uint32_t pack, absl::Span<const IndexEntry> entries) {
      if (IsGone(pack)) {
        gone_.emplace(pack, lengths->at(pack));
        for (const IndexEntry& entry : entries) Lose(entry);
        Advance(lengths->at(pack));
        return;
      }
      PackCheck check = checker_.Check(pack, lengths->at(pack), entries);
      for (const IndexEntry& entry : check.lost) Lose(entry);
      Take(std::move(check));
    });
  }

  bool IsGone(uint32_t pack) const {
    struct stat info;
    return ::lstat(absl::StrCat(paths_.packs, "/", PackName(pack)).c_str(), &info) != 0 && errno == ENOENT;
  }

  // A gc that was cut short leaves entries and records of packs that it has deleted. Only if an epoch needs
  // a page of such a pack is that damage.
  void NameGonePacks() {
    if (gone_.empty()) return;
    std::vector<PageId> ids(needed_.begin(), needed_.end());
    std::sort(ids.begin(), ids.end());
    std::map<uint32_t, uint64_t> pages;
    const absl::Status found = FindPages(*db_, ids, [&](size_t, const PageLocation& location) {
      if (gone_.count(location.pack) != 0) ++pages[location.pack];
      return absl::OkStatus();
    });
    if (!found.ok()) AddDatabase(found);
    for (const auto& [pack, count] : pages) {
      Add({absl::StrCat("packs/", PackName(pack)), 0, gone_.at(pack),
           absl::StrCat("no such file; epochs need ", count, " pages of it")});
    }
  }

  // Every entry is one, and lies within what is committed.
  void CheckIndex(const std::map<uint32_t, uint64_t>& lengths) {
    const auto row = [&](absl::string_view key, absl::string_view value) {
      const absl::StatusOr<PageLocation> location = DecodeLocation(value);
      if (key.size() != kPageIdBytes) {
        Add({"db", 0, 0, "the index has an entry that is none"});
        return absl::OkStatus();
      }
      const PageId id = DecodePageId(key.data());
      if (location.ok()) {
        const auto length = lengths.find(location->pack);
        if (length != lengths.end() && location->end() <= length->second) return absl::OkStatus();
        if (length == lengths.end() && IsGone(location->pack)) {
          gone_.emplace(location->pack, 0);
          lost_->Add(id);
          return absl::OkStatus();
        }
      }
      Add({"db", 0, 0, absl::StrCat("the index entry of page ", PageIdText(id), " points to no committed body")});
      lost_->Add(id);
      return absl::OkStatus();
    };
    if (const absl::Status scan = db_->Scan(KvTable::kPages, "", row); !scan.ok()) AddDatabase(scan);
  }

  // A body that the index does not point to may have another, good one elsewhere.
  void Lose(const IndexEntry& entry) {
    const absl::Status found = FindPages(*db_, {&entry.id, 1}, [&](size_t, const PageLocation& location) {
      if (location == entry.location) lost_->Add(entry.id);
      return absl::OkStatus();
    });
    if (!found.ok()) lost_->Add(entry.id);
  }

  absl::Status CheckScope() {
    report_.epoch = options_.epoch;
    if (options_.latest) {
      const absl::StatusOr<uint64_t> last = catalog_->LastRecord(options_.job);
      INCR_RETURN_IF_ERROR(last.status());
      report_.epoch = *last;
    }
    const absl::Status found = report_.epoch == 0
                                   ? catalog_->ListEpochs(options_.job).status()
                                   : catalog_->GetEpoch(options_.job, report_.epoch).status();
    return absl::IsNotFound(found) ? found : absl::OkStatus();
  }

  // The bodies of the epochs asked for, each once.
  void CheckScopedBodies() {
    absl::flat_hash_set<PageId> wanted;
    (void)WalkEpochs(
        *db_, [this](absl::string_view job, uint64_t epoch) { return InScope(job, epoch); },
        [&](const WalkedEpoch& walked) {
          for (const PageTableEntry& entry : walked.table) {
            if (!entry.id.is_zero_page()) wanted.insert(entry.id);
          }
        },
        [&](const std::string& job, uint64_t epoch, const absl::Status&) {  // CheckEpochs() names them.
          WantWhatIsLeft(job, epoch, &wanted);
        });
    std::vector<PageId> ids(wanted.begin(), wanted.end());
    wanted = {};
    std::sort(ids.begin(), ids.end());
    std::vector<IndexEntry> bodies;
    bodies.reserve(ids.size());
    const absl::Status found = FindPages(*db_, ids, [&](size_t i, const PageLocation& location) {
      bodies.push_back({ids[i], location});
      progress_.total_bytes += location.length;
      return absl::OkStatus();
    });
    if (!found.ok()) AddDatabase(found);
    for (size_t i = 0, next = 0; i < ids.size(); ++i) {
      if (next < bodies.size() && bodies[next].id == ids[i]) {
        ++next;
      } else {
        lost_->Add(ids[i]);
      }
    }
    std::sort(bodies.begin(), bodies.end(), ByPlace);
    PackCheck check = checker_.CheckBodies(bodies);
    for (const IndexEntry& entry : check.lost) lost_->Add(entry.id);
    Take(std::move(check));
    report_.packs = 0;
    for (size_t i = 0; i < bodies.size(); ++i) {
      report_.packs += i == 0 || bodies[i].location.pack != bodies[i - 1].location.pack;
    }
  }

  bool InScope(absl::string_view job, uint64_t epoch) const {
    return options_.job.empty() || (job == options_.job && (report_.epoch == 0 || epoch == report_.epoch));
  }

  // The bodies that a broken chain names from its end to the break, some of them for nothing.
  void WantWhatIsLeft(const std::string& job, uint64_t epoch, absl::flat_hash_set<PageId>* wanted) {
    for (absl::StatusOr<EpochEnvelope> envelope = catalog_->GetEpoch(job, epoch); envelope.ok();
         envelope = catalog_->GetEpoch(job, envelope->record.parent())) {
      const absl::StatusOr<PageDelta> delta = catalog_->ReadManifest(job, envelope->record.epoch(), *envelope);
      if (!delta.ok()) return;
      for (const PageTableEntry& entry : delta->written) {
        if (!entry.id.is_zero_page()) wanted->insert(entry.id);
      }
      if (envelope->depth == 0 || envelope->record.parent() == 0) return;
    }
  }

  DamagedEpoch& Row(absl::string_view job, uint64_t epoch) {
    std::vector<DamagedEpoch>& rows = report_.damaged_epochs;
    if (rows.empty() || rows.back().job != job || rows.back().epoch != epoch) {
      rows.push_back({std::string(job), epoch, {}, 0, {}});
    }
    return rows.back();
  }

  void CountEpoch(absl::string_view job) {
    ++report_.epochs;
    if (job != last_job_) ++report_.jobs;
    last_job_ = std::string(job);
    ++progress_.epochs;
    if (options_.progress) options_.progress(progress_);
  }

  void CheckEpochs() {
    const absl::Status scan = WalkEpochs(
        *db_, [this](absl::string_view job, uint64_t epoch) { return InScope(job, epoch); },
        [&](const WalkedEpoch& walked) {
          CountEpoch(walked.job);
          CheckImage(walked.job, walked.epoch);
          lost_->AddMissing(walked.own.written);
          FindLostPages(walked);
        },
        [&](const std::string& job, uint64_t epoch, const absl::Status& status) {
          if (job.empty()) return AddDatabase(status);
          CountEpoch(job);
          Row(job, epoch).problems.emplace_back(status.message());
          if (catalog_->GetEpoch(job, epoch).ok()) CheckImage(job, epoch);
        });
    if (!scan.ok()) AddDatabase(scan);
  }

  void CheckImage(absl::string_view job, uint64_t epoch) {
    const absl::Status image = Twice([&] { return catalog_->ReadImage(job, epoch).status(); });
    if (!image.ok()) Row(job, epoch).problems.emplace_back(image.message());
  }

  void FindLostPages(const WalkedEpoch& walked) {
    if (lost_->empty()) return;
    for (const PageTableEntry& entry : walked.table) {
      if (!lost_->Has(entry.id)) continue;
      DamagedEpoch& row = Row(walked.job, walked.epoch);
      ++row.lost_pages;
      if (!gone_.empty()) needed_.insert(entry.id);
      if (!row.lost.empty() && row.lost.back().space == entry.space &&
          row.lost.back().pages.end() == entry.page) {
        ++row.lost.back().pages.count;
      } else if (row.lost.size() < kMostLostRuns) {
        row.lost.push_back({entry.space, {entry.page, 1}});
      }
    }
  }

  const StorePaths paths_;
  const StoreIdentity identity_;
  const VerifyOptions& options_;
  std::optional<ReaderLease> lease_;
  const PageHasher hasher_;
  const PackReader reader_;
  WorkerPool workers_;
  PackChecker checker_;
  std::unique_ptr<KvDb> db_;
  std::unique_ptr<Catalog> catalog_;
  VerifyProgress progress_;
  VerifyReport report_;
  std::unique_ptr<LostPages> lost_;
  std::map<uint32_t, uint64_t> gone_;    // packs without a file; their committed length, 0: no record either
  absl::flat_hash_set<PageId> needed_;  // lost pages that epochs have, once a pack is gone
  std::string last_job_;
  bool count_damaged_ = false;  // of commits
};

}  // namespace

absl::StatusOr<VerifyReport> VerifyStore(const std::string& directory, const VerifyOptions& options) {
  const StorePaths paths(directory, FileIo(options.faults));
  INCR_ASSIGN_OR_RETURN(StoreIdentity identity, ReadIdentity(paths));
  return Verifier(paths, std::move(identity), options).Run();
}

}  // namespace incr
