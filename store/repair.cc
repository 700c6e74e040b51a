#include "store/repair.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
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

namespace fs = std::filesystem;

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
      : paths_(paths), repair_(paths), identity_(std::move(identity)), options_(options) {}

  absl::StatusOr<RepairResult> Run() {
    INCR_ASSIGN_OR_RETURN(const bool finished, FinishEarlierOne());
    if (finished && options_.dry_run) return std::move(result_);
    Step("reading everything");
    VerifyOptions verify;
    verify.progress = [this](const VerifyProgress& progress) { Report(progress.bytes); };
    INCR_ASSIGN_OR_RETURN(const VerifyReport report, VerifyStore(paths_.root, verify));
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
    if (!IsReady()) RemoveTemporary();
    INCR_RETURN_IF_ERROR(done);
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
      RemoveTemporary();
      return false;
    }
    INCR_ASSIGN_OR_RETURN(result_.set_aside, FinishSwap(paths_));
    result_.damaged = true;
    Say("an interrupted repair is finished");
    return true;
  }

  bool IsReady() const { return ::access(repair_.ready.c_str(), F_OK) == 0; }

  void RemoveTemporary() {
    std::error_code ignored;
    fs::remove_all(repair_.tmp, ignored);
  }

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
    if (::unlink(paths_.generation.c_str()) == 0) return absl::OkStatus();
    return ErrnoStatus(absl::StrCat("unlink(", paths_.generation, ")"));
  }

  absl::Status RenewCommits() {
    result_.database = "whole";
    Say(absl::StrCat("the count of commits (", paths_.commits, ") is damaged: ",
                     options_.dry_run ? "it would be" : "it was", " made anew from the database's"));
    if (options_.dry_run) return absl::OkStatus();
    INCR_ASSIGN_OR_RETURN(const std::unique_ptr<KvDb> db, KvDb::Open(paths_.db, KvDb::Mode::kReadOnly));
    INCR_ASSIGN_OR_RETURN(const uint64_t count, CommitCount(*db));
    if (::unlink(paths_.commits.c_str()) != 0) return ErrnoStatus(absl::StrCat("unlink(", paths_.commits, ")"));
    return CommitFile::Open(paths_.commits, count).status();
  }

  absl::StatusOr<std::unique_ptr<KvDb>> OpenWhole() const {
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db, KvDb::Open(paths_.db, KvDb::Mode::kReadOnly));
    const absl::StatusOr<std::optional<uint64_t>> acknowledged = ReadCommitFile(paths_.commits);
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
    absl::StatusOr<std::unique_ptr<KvDb>> salvaged = SalvageDatabase(paths_.db, repair_.salvage);
    if (salvaged.ok()) return Source{*std::move(salvaged), false};
    INCR_RETURN_IF_ERROR(UnlessDamage(salvaged.status()));
    Say(absl::StrCat("nothing of the database can be salvaged (", salvaged.status().message(),
                     "): which pages make an epoch was recorded there alone, so no epoch can be saved. The pages "
                     "in the packs are whole and indexed again: an epoch of the same memory is not stored twice. "
                     "If there is a copy of ", paths_.db, " anywhere, put it in its place and repair again"));
    return Source();
  }

  absl::Status Rebuild() {
    if (::mkdir(repair_.tmp.c_str(), 0700) != 0) return ErrnoStatus(absl::StrCat("mkdir(", repair_.tmp, ")"));
    INCR_ASSIGN_OR_RETURN(Source source, OpenSource());
    result_.database = source.whole ? "whole" : source.db != nullptr ? "salvaged" : "lost";
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_source"));
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db, KvDb::Open(repair_.db, KvDb::Mode::kCreate));
    Step("indexing the packs");
    INCR_ASSIGN_OR_RETURN(
        const RebuiltPacks packs,
        RebuildPacks(paths_, identity_, source.db.get(), source.whole, options_.dry_run,
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
    INCR_RETURN_IF_ERROR(SaveCommitCount(source.db.get(), db.get()));
    source.db.reset();
    INCR_RETURN_IF_ERROR(db->Sync());
    db.reset();
    Describe(packs);
    if (options_.dry_run) return absl::OkStatus();
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_built"));
    INCR_RETURN_IF_ERROR(WriteReady(repair_, ChooseSetAside(paths_), packs.damaged));
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_ready"));
    INCR_ASSIGN_OR_RETURN(result_.set_aside, FinishSwap(paths_));
    return absl::OkStatus();
  }

  // What is lost is lost: counted from here on, so that the store opens again.
  absl::Status SaveCommitCount(const KvDb* from, KvDb* into) {
    uint64_t count = 0;
    if (from != nullptr) count = CommitCount(*from).value_or(0);
    const absl::StatusOr<std::optional<uint64_t>> acknowledged = ReadCommitFile(paths_.commits);
    if (acknowledged.ok() && acknowledged->value_or(0) > count) {
      Say(absl::StrCat(**acknowledged - count, " commits that were acknowledged are in nothing that can be read"));
      count = **acknowledged;
    }
    KvBatch batch;
    AddCommitCount(&batch, count);
    return into->Write(batch, /*sync=*/true);
  }

  void Describe(const RebuiltPacks& packs) {
    result_.pages = packs.pages;
    result_.bodies_lost = packs.bodies_lost;
    if (packs.damaged.empty()) return;
    Say(absl::StrCat(packs.damaged.size(), " packs are damaged: what is whole in them ",
                     options_.dry_run ? "would be" : "was", " copied to new packs"));
  }

  const StorePaths& paths_;
  const RepairPaths repair_;
  const StoreIdentity identity_;
  const RepairOptions& options_;
  RepairResult result_;
  std::string step_;
  uint64_t bytes_ = 0;
};

}  // namespace

absl::StatusOr<RepairResult> RepairStore(const std::string& directory, const RepairOptions& options) {
  const StorePaths paths(directory);
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
