#include "store/repair.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/catalog.h"
#include "store/commit_count.h"
#include "store/epoch_walk.h"
#include "store/kv_db.h"
#include "store/kv_salvage.h"
#include "store/reader_lease.h"
#include "store/repair_epochs.h"
#include "store/repair_packs.h"
#include "store/repair_swap.h"
#include "store/store_directory.h"
#include "store/verify.h"

namespace incr {
namespace {

// Where the epochs come from.
struct Source {
  std::unique_ptr<KvDb> db;  // null: the database is lost
  bool whole = false;
};

// The error itself if it says nothing of the bytes on the disk.
absl::Status UnlessDamage(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsPermissionDenied(status) ? status : absl::OkStatus();
}

class Repair {
 public:
  Repair(const StorePaths& paths, StoreIdentity identity, const RepairOptions& options)
      : paths_(paths), io_(paths.io), repair_(paths), identity_(std::move(identity)), options_(options) {}

  absl::StatusOr<RepairResult> Run() {
    INCR_ASSIGN_OR_RETURN(const bool finished, FinishEarlierOne());
    if (finished && options_.dry_run) return std::move(result_);
    Step("reading everything");
    VerifyOptions verify;
    verify.faults = options_.faults;
    verify.progress = [this](const VerifyProgress& progress) { Report(progress.bytes); };
    INCR_ASSIGN_OR_RETURN(const VerifyReport report, VerifyStore(paths_.root, verify));
    if (left_over_) Say(absl::StrCat("what an interrupted repair had made (", repair_.tmp, ") is removed"));
    if (report.ok()) return std::move(result_);
    result_.damaged = true;
    std::set<std::string> objects;
    for (const Damage& damage : report.damage) objects.insert(damage.object);
    if (objects.erase("generation") != 0) INCR_RETURN_IF_ERROR(RenewGeneration());
    if (objects.empty() && report.damaged_epochs.empty()) {
      result_.database = "whole";
      return std::move(result_);
    }
    const bool only_commits = objects == std::set<std::string>{"commits"} && report.damaged_epochs.empty();
    const absl::Status done = only_commits ? RenewCommits() : Rebuild();
    // Once it is ready only the next repair can go on with it: the old database may be set aside already.
    if (IsReady()) {
      INCR_RETURN_IF_ERROR(Annotate(done, "the new database is made, but not in its place yet: repair again"));
      return std::move(result_);
    }
    const absl::Status removed = io_.RemoveTree(repair_.tmp);
    INCR_RETURN_IF_ERROR(Annotate(
        done, removed.ok() ? "nothing has changed, and what was made is removed"
                           : absl::StrCat("nothing has changed; the next repair removes ", repair_.tmp)));
    INCR_RETURN_IF_ERROR(removed);
    return std::move(result_);
  }

 private:
  void Step(const std::string& step) {
    step_ = step;
    bytes_ = 0;
    Report(0);
  }
  void Report(uint64_t bytes) {
    if (options_.progress) options_.progress(step_, bytes);
  }
  void Say(std::string sentence) { result_.done.push_back(std::move(sentence)); }

  // What an interrupted repair left. A ready one is not begun again.
  absl::StatusOr<bool> FinishEarlierOne() {
    const bool ready = IsReady();
    if (ready && options_.dry_run) {
      result_.damaged = true;
      Say("an interrupted repair is to be finished");
      return true;
    }
    if (!ready) {
      struct stat info;
      if (::lstat(repair_.tmp.c_str(), &info) != 0) return false;
      // A dry run leaves none behind but when it is killed: it may go as well.
      INCR_RETURN_IF_ERROR(io_.RemoveTree(repair_.tmp));
      left_over_ = true;
      return false;
    }
    INCR_ASSIGN_OR_RETURN(result_.set_aside, FinishSwap(paths_));
    result_.damaged = true;
    Say("an interrupted repair is finished");
    return true;
  }

  bool IsReady() const { return ::access(repair_.ready.c_str(), F_OK) == 0; }

  // Counted from 0 again: a reader from before would be taken for a later one.
  absl::Status RenewGeneration() {
    Say(absl::StrCat("the count of gc's deletions (", paths_.generation, ") is damaged: ",
                     options_.dry_run ? "it would begin" : "it begins", " anew"));
    if (options_.dry_run) return absl::OkStatus();
    INCR_ASSIGN_OR_RETURN(const ReaderBarrier readers, ReaderBarrier::Open(paths_));
    INCR_ASSIGN_OR_RETURN(const bool read, readers.HasReadersUpTo(kLastGeneration));
    if (read) {
      return absl::FailedPreconditionError(
          absl::StrCat("store ", paths_.root, " is being read, and ", paths_.generation,
                       " is damaged: repair again when nobody reads it"));
    }
    return io_.Unlink(paths_.generation);
  }

  absl::StatusOr<std::unique_ptr<KvDb>> OpenReadOnly(KvDb::Mode mode) const {
    return KvDb::Open(paths_.db, mode, {io_});
  }

  // Verify has found the database's log whole, or failed to read it: what it has counted is believed only if all of it
  // can be read.
  absl::Status RenewCommits() {
    result_.database = "whole";
    Say(absl::StrCat("the count of commits (", paths_.commits, ") is damaged: ",
                     options_.dry_run ? "it would be" : "it was", " made anew from the database's"));
    if (options_.dry_run) return absl::OkStatus();
    INCR_ASSIGN_OR_RETURN(const std::unique_ptr<KvDb> db, OpenReadOnly(KvDb::Mode::kReadOnlyWhole));
    INCR_ASSIGN_OR_RETURN(const uint64_t count, CommitCount(*db));
    return CommitFile::Renew(paths_.commits, count, io_);
  }

  // What the count of commits would tell, could it be read: no file is as good as a count.
  bool CountIsDamaged() const {
    return !ReadCommitFile(paths_.commits, io_).ok() || !CheckCommitSlots(paths_.commits, io_).ok();
  }

  absl::StatusOr<std::unique_ptr<KvDb>> OpenWhole() const {
    // Without a count nothing says whether acknowledged commits lie behind damage in the log.
    const bool blind = CountIsDamaged();
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db,
                          OpenReadOnly(blind ? KvDb::Mode::kReadOnlyWhole : KvDb::Mode::kReadOnly));
    const absl::StatusOr<std::optional<uint64_t>> acknowledged = ReadCommitFile(paths_.commits, io_);
    INCR_ASSIGN_OR_RETURN(const uint64_t counted, CommitCount(*db));
    if (acknowledged.ok()) INCR_RETURN_IF_ERROR(CheckCommitCount(paths_, counted, acknowledged->value_or(0)));
    INCR_RETURN_IF_ERROR(CheckHeads(*db));
    // All but the index, which is made anew.
    for (const KvTable table :
         {KvTable::kPacks, KvTable::kManifests, KvTable::kImages, KvTable::kEpochs, KvTable::kJobs}) {
      INCR_RETURN_IF_ERROR(
          db->Scan(table, "", [](absl::string_view, absl::string_view) { return absl::OkStatus(); }));
    }
    return db;
  }

  // An error: what there is could not be read for want of memory, room, files or permission, which is no
  // damage.
  absl::StatusOr<Source> OpenSource() {
    absl::StatusOr<std::unique_ptr<KvDb>> whole = OpenWhole();
    if (whole.ok()) return Source{*std::move(whole), true};
    INCR_RETURN_IF_ERROR(UnlessDamage(whole.status()));
    Say(absl::StrCat("the database is damaged: ", whole.status().message()));
    Step("salvaging the database");
    absl::StatusOr<std::unique_ptr<KvDb>> salvaged = SalvageDatabase(paths_.db, repair_.salvage, io_);
    if (salvaged.ok()) return Source{*std::move(salvaged), false};
    // Of a copy that could not be made nothing is known.
    const bool none = absl::IsDataLoss(salvaged.status()) || ::access(paths_.db.c_str(), F_OK) != 0;
    if (!none) return salvaged.status();
    Say(absl::StrCat("nothing of the database can be salvaged (", salvaged.status().message(),
                     "): which pages make an epoch was recorded there alone, so no epoch can be saved. The pages "
                     "in the packs are whole and indexed again: an epoch of the same memory is not stored twice. "
                     "If there is a copy of ", paths_.db, " anywhere, put it in its place and repair again"));
    return Source();
  }

  absl::Status Rebuild() {
    INCR_RETURN_IF_ERROR(io_.MakeDirectory(repair_.tmp));
    INCR_RETURN_IF_ERROR(io_.MakeDirectory(repair_.packs));
    INCR_ASSIGN_OR_RETURN(Source source, OpenSource());
    result_.database = source.whole ? "whole" : source.db != nullptr ? "salvaged" : "lost";
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_source"));
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db, KvDb::Open(repair_.db, KvDb::Mode::kCreate, {io_}));
    Step("indexing the packs");
    INCR_ASSIGN_OR_RETURN(
        const RebuiltPacks packs,
        RebuildPacks(paths_, repair_.packs, identity_, source.db.get(), source.whole, options_.dry_run,
                     [this](uint64_t bytes) { Report(bytes_ += bytes); }, db.get()));
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_index"));
    Step("saving the epochs");
    if (source.db != nullptr) {
      INCR_ASSIGN_OR_RETURN(SavedEpochs epochs, SaveEpochs(*source.db, db.get()));
      result_.epochs_kept = epochs.kept;
      result_.dropped = std::move(epochs.dropped);
      if (epochs.rewritten > 0) {
        Say(absl::StrCat(epochs.rewritten, " epochs get a full page table, since one before them is dropped"));
      }
    }
    INCR_RETURN_IF_ERROR(SaveCommitCount(source, db.get()));
    source.db.reset();
    INCR_RETURN_IF_ERROR(db->Sync());
    db.reset();
    Describe(packs);
    if (options_.dry_run) return absl::OkStatus();
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_built"));
    INCR_RETURN_IF_ERROR(WriteReady(repair_, ChooseSetAside(paths_), packs.damaged, io_));
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_ready"));
    INCR_ASSIGN_OR_RETURN(result_.set_aside, FinishSwap(paths_));
    return absl::OkStatus();
  }

  // What is lost is lost: counted from here on, so that the store opens again.
  absl::Status SaveCommitCount(const Source& source, KvDb* into) {
    uint64_t count = 0;
    if (source.db != nullptr) {
      const absl::StatusOr<uint64_t> counted = CommitCount(*source.db);
      if (!absl::IsDataLoss(counted.status())) INCR_RETURN_IF_ERROR(counted.status());
      count = counted.value_or(0);
    }
    const absl::StatusOr<std::optional<uint64_t>> acknowledged = ReadCommitFile(paths_.commits, io_);
    if (acknowledged.ok() && acknowledged->value_or(0) > count) {
      Say(absl::StrCat(**acknowledged - count, " commits that were acknowledged are in nothing that can be read"));
      count = **acknowledged;
    }
    if (CountIsDamaged() && !source.whole) INCR_RETURN_IF_ERROR(WarnOfLoss(*into));
    KvBatch batch;
    AddCommitCount(&batch, count);
    return into->Write(batch, /*sync=*/true);
  }

  absl::Status WarnOfLoss(const KvDb& saved) {
    const Catalog catalog(&saved);
    INCR_ASSIGN_OR_RETURN(const std::vector<std::string> jobs, catalog.JobsWithEpochs());
    std::string last;
    for (const std::string& job : jobs) {
      INCR_ASSIGN_OR_RETURN(const EpochEnvelope envelope, catalog.LatestEpoch(job));
      absl::StrAppend(&last, last.empty() ? "" : ", ", envelope.record.epoch(), " of job ", job);
    }
    result_.jobs_in_doubt = jobs.size();
    result_.warnings.push_back(absl::StrCat(
        "epochs that were acknowledged may be lost: the database is damaged, and so is the count of commits (",
        paths_.commits, ") that would tell. The last that could be saved: ", last.empty() ? "none" : last,
        ". Compare with what `checkpoint` or `list` said last"));
    return absl::OkStatus();
  }

  void Describe(const RebuiltPacks& packs) {
    result_.pages = packs.pages;
    result_.bodies_lost = packs.bodies_lost;
    if (packs.damaged.empty()) return;
    Say(absl::StrCat(packs.damaged.size(), " packs are damaged: what is whole in them ",
                     options_.dry_run ? "would be" : "was", " copied to new packs"));
  }

  const StorePaths& paths_;
  const FileIo io_;
  const RepairPaths repair_;
  const StoreIdentity identity_;
  const RepairOptions& options_;
  RepairResult result_;
  std::string step_;
  uint64_t bytes_ = 0;
  bool left_over_ = false;  // an interrupted repair had left something
};

}  // namespace

absl::StatusOr<RepairResult> RepairStore(const std::string& directory, const RepairOptions& options) {
  const StorePaths paths(directory, FileIo(options.faults));
  INCR_ASSIGN_OR_RETURN(const bool identity_damaged, RepairIdentity(paths, /*dry_run=*/true));
  if (!identity_damaged) INCR_RETURN_IF_ERROR(ReadIdentity(paths).status());
  INCR_ASSIGN_OR_RETURN(const ScopedFd lock, LockForWriting(paths));
  RepairResult result;
  if (identity_damaged) {
    result.damaged = true;
    result.done.push_back("FORMAT or secret is damaged: what it was can be told from the packs and the other one");
    if (options.dry_run) return result;
    INCR_RETURN_IF_ERROR(RepairIdentity(paths, /*dry_run=*/false).status());
  }
  INCR_ASSIGN_OR_RETURN(StoreIdentity identity, ReadIdentity(paths));
  INCR_ASSIGN_OR_RETURN(RepairResult rest, Repair(paths, std::move(identity), options).Run());
  rest.damaged |= identity_damaged;
  rest.done.insert(rest.done.begin(), result.done.begin(), result.done.end());
  return rest;
}

}  // namespace incr
