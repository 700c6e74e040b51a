#include "store/gc.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/catalog.h"
#include "store/checksum.h"
#include "store/manifest.h"

namespace incr {
namespace {

constexpr uint64_t kReserveBytes = 4u << 20;  // what commits leave free: RocksDB needs room to recover
constexpr uint64_t kLeastRoom = 512u << 10;  // of that, for what gc must write before it frees anything
constexpr int kMostLosses = 3;  // of a manifest that was written and is not there

uint64_t TableBytes(uint64_t pages) { return pages * 17 + 4096; }

uint64_t FreeBytes(const std::string& path) {
  struct statvfs info;
  if (::statvfs(path.c_str(), &info) != 0) return UINT64_MAX;  // The write will tell.
  return uint64_t{info.f_bavail} * info.f_frsize;
}

uint64_t BytesUnder(const std::string& directory) {
  namespace fs = std::filesystem;
  uint64_t bytes = 0;
  std::error_code error;
  // Files come and go meanwhile: what cannot be looked at does not count.
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;
    const uint64_t size = it->is_regular_file(gone) ? it->file_size(gone) : 0;
    if (!gone) bytes += size;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<GcResult> StoreImpl::CollectGarbage(const GcOptions& options) {
  if (!gc_run_mutex_.TryLock()) {
    return absl::FailedPreconditionError(
        absl::StrCat("gc is already running on ", view_->paths.root));
  }
  absl::Cleanup unlock = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { gc_run_mutex_.Unlock(); };
  return GcRun(this, options).Run();
}

absl::Status GcRun::Progress(const char* step, uint64_t done, uint64_t total) const {
  if (!options_.progress) return absl::OkStatus();
  return options_.progress({step, done, total});
}

absl::StatusOr<GcResult> GcRun::Run() {
  INCR_RETURN_IF_ERROR(MakePlan());
  const std::string& root = store_.view_->paths.root;
  result_.bytes_before = BytesUnder(root);
  if (options_.dry_run) {
    INCR_RETURN_IF_ERROR(Sweep());
    EstimateBytesAfter();
    return std::move(result_);
  }
  INCR_RETURN_IF_ERROR(store_.view_->db->EnsureHealthy());
  INCR_ASSIGN_OR_RETURN(const bool short_of_room, IsShortOfRoom());
  if (short_of_room) INCR_RETURN_IF_ERROR(DropWithoutRewriting());
  uint64_t done = 0;
  for (const auto& [job, dropped] : dropped_) {
    INCR_RETURN_IF_ERROR(Progress("collapsing", done++, dropped_.size()));
    INCR_RETURN_IF_ERROR(Publish(job, dropped));
  }
  INCR_RETURN_IF_ERROR(DeleteOrphans());
  INCR_RETURN_IF_ERROR(Sweep());
  INCR_RETURN_IF_ERROR(CleanPacks());
  const bool worth_it = options_.thorough || result_.pages_dropped > result_.pages_kept / 4;
  const std::string& db = store_.view_->paths.db;
  if (worth_it && FreeBytes(db) > BytesUnder(db) + kReserveBytes) {
    INCR_RETURN_IF_ERROR(Progress("compacting", 0, 0));
    INCR_RETURN_IF_ERROR(store_.view_->db->Compact());
  }
  result_.bytes_after = BytesUnder(root);
  return std::move(result_);
}

absl::Status GcRun::CheckRequest(const std::vector<std::string>& jobs) const {
  if (options_.policy.empty()) {
    return absl::InvalidArgumentError(
        "gc needs a rule that says what to keep, such as --keep-last 100 or --keep-within 2h");
  }
  if (!options_.job.empty() && std::find(jobs.begin(), jobs.end(), options_.job) == jobs.end()) {
    return absl::NotFoundError(absl::StrCat(
        "no job ", options_.job, " in the store; it has ",
        jobs.empty() ? "none" : absl::StrJoin(jobs, ", ")));
  }
  return absl::OkStatus();
}

absl::Status GcRun::MakePlan() {
  INCR_ASSIGN_OR_RETURN(const std::vector<std::string> jobs, store_.view_->catalog.JobsWithEpochs());
  INCR_RETURN_IF_ERROR(CheckRequest(jobs));
  std::set<uint64_t> wanted(options_.policy.keep.begin(), options_.policy.keep.end());
  for (const std::string& job : jobs) {
    if (!options_.job.empty() && job != options_.job) continue;
    INCR_ASSIGN_OR_RETURN(const std::vector<EpochFacts> epochs, ListFacts(job));
    std::vector<EpochMoment> moments;
    for (const EpochFacts& facts : epochs) moments.push_back({facts.epoch, facts.time_us});
    std::map<uint64_t, std::string> kept = ChooseKept(moments, options_.policy);
    for (const uint64_t epoch : InUse(job)) kept.try_emplace(epoch, "in use");
    std::set<uint64_t>& dropped = dropped_[job];
    for (const EpochFacts& facts : epochs) {
      wanted.erase(facts.epoch);
      const auto rule = kept.find(facts.epoch);
      result_.epochs.push_back(
          {job, facts.epoch, facts.time_us, rule == kept.end() ? "" : rule->second});
      if (rule != kept.end()) continue;
      dropped.insert(facts.epoch);
      dropped_record_bytes_ += facts.manifest_bytes + facts.image_bytes;
    }
    result_.epochs_dropped += dropped.size();
    result_.epochs_kept += epochs.size() - dropped.size();
  }
  if (wanted.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      "--keep ", *wanted.begin(), ": ",
      options_.job.empty() ? std::string("no job") : absl::StrCat("job ", options_.job, " has"),
      options_.job.empty() ? " has such an epoch" : " no such epoch", " (see incr-ckpt list)"));
}

absl::StatusOr<std::vector<EpochFacts>> GcRun::ListFacts(const std::string& job) const {
  std::vector<EpochFacts> epochs;
  INCR_RETURN_IF_ERROR(store_.view_->catalog.ForEachEpoch(job, [&](const EpochEnvelope& e) {
    epochs.push_back({e.record.epoch(), e.record.parent(), e.depth, e.chain_bytes, e.manifest_bytes,
                      e.image_bytes, e.record.table_pages(), e.record.time_us()});
    return absl::OkStatus();
  }));
  return epochs;
}

std::set<uint64_t> GcRun::InUse(const std::string& job) const {
  std::set<uint64_t> used;
  {
    absl::MutexLock lock(&store_.jobs_mutex_);
    const auto state = store_.jobs_.find(job);
    if (state != store_.jobs_.end() && state->second.busy) used.insert(state->second.parent);
  }
  if (options_.in_use) {
    for (const auto& [user, epoch] : options_.in_use()) {
      if (user == job) used.insert(epoch);
    }
  }
  used.erase(0);
  return used;
}

absl::StatusOr<GcRun::JobView> GcRun::LookAt(const std::string& job,
                                             const std::set<uint64_t>& dropped) const {
  JobView view;
  INCR_ASSIGN_OR_RETURN(view.epochs, ListFacts(job));
  const std::set<uint64_t> used = InUse(job);
  for (const EpochFacts& facts : view.epochs) {
    if (dropped.count(facts.epoch) == 0 || used.count(facts.epoch) != 0) {
      view.kept.insert(facts.epoch);
    }
  }
  absl::StatusOr<std::vector<ChainStep>> steps = PlanChains(view.epochs, view.kept);
  if (!steps.ok()) return Annotate(steps.status(), absl::StrCat("job ", job));
  view.steps = *std::move(steps);
  return view;
}

absl::StatusOr<PageDelta> GcRun::ReadCombined(const std::string& job,
                                              const std::vector<uint64_t>& epochs) const {
  const Catalog& catalog = store_.view_->catalog;
  PageDelta result;
  for (const uint64_t epoch : epochs) {
    INCR_ASSIGN_OR_RETURN(const EpochEnvelope envelope, catalog.GetEpoch(job, epoch));
    INCR_ASSIGN_OR_RETURN(PageDelta delta, catalog.ReadManifest(job, epoch, envelope));
    result = epoch == epochs.front() ? std::move(delta) : Combine(result, delta);
    if (result.written.size() > MaxTablePages()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("epoch ", epoch, " of job ", job, ": table too large"));
    }
  }
  return result;
}

absl::StatusOr<GcRun::NewManifest> GcRun::WriteManifest(const std::string& job,
                                                        const EpochFacts& facts,
                                                        const ChainStep& step) {
  const std::string name = absl::StrCat("epoch ", facts.epoch, " of job ", job);
  NewManifest made{step.combine, step.full, 0, 0, 0};
  INCR_ASSIGN_OR_RETURN(PageDelta delta, ReadCombined(job, step.combine));
  if (!made.full && delta.written.size() > facts.table_pages / 2) {
    // As large as a table, but worse to read.
    INCR_ASSIGN_OR_RETURN(delta.written, store_.view_->catalog.LoadPageTable(job, facts.epoch));
    made.full = true;
  }
  if (made.full) {
    delta.gone.clear();
    if (delta.written.size() != facts.table_pages) {
      return absl::DataLossError(absl::StrCat(name, ": its table has ", delta.written.size(),
                                              " pages instead of ", facts.table_pages));
    }
  }
  const std::string manifest = EncodeManifest(delta);
  if (FreeBytes(store_.view_->paths.db) < 2 * manifest.size() + kLeastRoom) {
    return absl::ResourceExhaustedError(
        absl::StrCat(store_.view_->paths.db, ": not enough room for a new manifest of ",
                     manifest.size(), " bytes for ", name, ": free some space"));
  }
  INCR_ASSIGN_OR_RETURN(const EpochEnvelope old, store_.view_->catalog.GetEpoch(job, facts.epoch));
  made.first_chunk = old.first_chunk == 0 ? kOtherFirstChunk : 0;
  made.bytes = manifest.size();
  made.checksum = Checksum64(manifest);
  INCR_RETURN_IF_ERROR(WriteChunks(*store_.view_->db, KvTable::kManifests, job, facts.epoch,
                                   manifest, made.first_chunk));
  return made;
}

absl::Status GcRun::Publish(const std::string& job, const std::set<uint64_t>& dropped) {
  if (dropped.empty()) return absl::OkStatus();
  NewManifests manifests;
  int losses = 0;
  for (;;) {
    INCR_ASSIGN_OR_RETURN(const JobView plan, LookAt(job, dropped));
    for (const ChainStep& step : plan.steps) {
      if (!step.rewritten()) continue;
      const auto made = manifests.find(step.epoch);
      if (made != manifests.end() && made->second.combine == step.combine) continue;
      const auto facts = std::find_if(plan.epochs.begin(), plan.epochs.end(),
                                      [&](const EpochFacts& f) { return f.epoch == step.epoch; });
      INCR_ASSIGN_OR_RETURN(manifests[step.epoch], WriteManifest(job, *facts, step));
      INCR_RETURN_IF_ERROR(FaultPoint("store.gc_after_manifest"));
    }
    absl::WriterMutexLock lookers(&store_.gc_mutex_);
    absl::MutexLock commits(&store_.commit_mutex_);
    INCR_ASSIGN_OR_RETURN(const JobView now, LookAt(job, dropped));
    const bool ready = std::all_of(now.steps.begin(), now.steps.end(), [&](const ChainStep& step) {
      const auto made = manifests.find(step.epoch);
      return !step.rewritten() ||
             (made != manifests.end() && made->second.combine == step.combine);
    });
    // Not ready: somebody has begun to go on from an epoch that was to go.
    if (!ready) continue;
    INCR_ASSIGN_OR_RETURN(const std::set<uint64_t> lost, LostManifests(job, manifests));
    if (lost.empty()) return WritePublication(job, now, manifests);
    if (++losses == kMostLosses) {
      return absl::DataLossError(absl::StrCat(store_.view_->paths.db, ": the new manifest of epoch ", *lost.begin(),
                                              " of job ", job, " does not read back: nothing was dropped"));
    }
    for (const uint64_t epoch : lost) manifests.erase(epoch);
  }
}

// Makes the new manifests durable and reads each back, before anything refers to them. Since they were written
// another job's failed write may have had the database opened anew, without what had not been synced.
absl::StatusOr<std::set<uint64_t>> GcRun::LostManifests(const std::string& job,
                                                        const NewManifests& manifests) const {
  INCR_RETURN_IF_ERROR(store_.view_->db->Sync());
  std::set<uint64_t> lost;
  for (const auto& [epoch, made] : manifests) {
    EpochEnvelope envelope;
    envelope.manifest_bytes = made.bytes;
    envelope.manifest_checksum = made.checksum;
    envelope.first_chunk = made.first_chunk;
    const absl::Status read = store_.view_->catalog.ReadManifest(job, epoch, envelope).status();
    if (absl::IsDataLoss(read)) {
      lost.insert(epoch);
    } else {
      INCR_RETURN_IF_ERROR(read);
    }
  }
  return lost;
}

absl::Status GcRun::WritePublication(const std::string& job, const JobView& view,
                                     const NewManifests& manifests) {
  KvBatch batch;
  std::map<uint64_t, std::pair<uint32_t, uint64_t>> places;  // depth and chain bytes
  auto step = view.steps.begin();
  for (const EpochFacts& facts : view.epochs) {
    if (view.kept.count(facts.epoch) == 0) {
      AddUnpublish(&batch, job, facts.epoch);
      continue;
    }
    INCR_CHECK(step != view.steps.end() && step->epoch == facts.epoch);
    const NewManifest* made = step->rewritten() ? &manifests.at(facts.epoch) : nullptr;
    const bool full = made != nullptr ? made->full : facts.depth == 0;
    const uint64_t bytes = made != nullptr ? made->bytes : facts.manifest_bytes;
    auto& [depth, chain_bytes] = places[facts.epoch];
    depth = full ? 0 : places.at(step->parent).first + 1;
    chain_bytes = full ? bytes : places.at(step->parent).second + bytes;
    if (made != nullptr || depth != facts.depth || chain_bytes != facts.chain_bytes ||
        step->parent != facts.parent) {
      INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope,
                            store_.view_->catalog.GetEpoch(job, facts.epoch));
      envelope.depth = depth;
      envelope.chain_bytes = chain_bytes;
      envelope.record.set_parent(step->parent);
      if (made != nullptr) {
        envelope.manifest_bytes = made->bytes;
        envelope.manifest_checksum = made->checksum;
        envelope.first_chunk = made->first_chunk;
        ++result_.epochs_rewritten;
      }
      AddEnvelope(&batch, envelope);
    }
    ++step;
  }
  INCR_RETURN_IF_ERROR(FaultPoint("store.gc_before_unpublish"));
  INCR_RETURN_IF_ERROR(store_.view_->db->Write(batch, /*sync=*/true));
  return FaultPoint("store.gc_after_unpublish");
}

absl::Status GcRun::DeleteOrphans() {
  INCR_ASSIGN_OR_RETURN(const std::vector<std::string> jobs, store_.view_->catalog.JobsWithEpochs());
  for (const std::string& job : jobs) {
    uint64_t head;
    {
      absl::MutexLock commits(&store_.commit_mutex_);
      INCR_ASSIGN_OR_RETURN(head, store_.view_->catalog.LastEpoch(job));
    }
    // A reader in this process may still be between an epoch's record and its chunks.
    absl::WriterMutexLock lookers(&store_.gc_mutex_);
    INCR_RETURN_IF_ERROR(DeleteOrphanChunks(*store_.view_->db, job, head));
  }
  return FaultPoint("store.gc_after_orphans");
}

absl::StatusOr<bool> GcRun::IsShortOfRoom() const {
  uint64_t need = 0;
  for (const auto& [job, dropped] : dropped_) {
    INCR_ASSIGN_OR_RETURN(const JobView view, LookAt(job, dropped));
    for (const ChainStep& step : view.steps) {
      if (!step.rewritten()) continue;
      const auto facts = std::find_if(view.epochs.begin(), view.epochs.end(),
                                      [&](const EpochFacts& f) { return f.epoch == step.epoch; });
      need += 2 * TableBytes(facts->table_pages);
    }
  }
  const uint64_t room = FreeBytes(store_.view_->paths.db);
  if (room < kLeastRoom) {
    return absl::ResourceExhaustedError(
        absl::StrCat(store_.view_->paths.db, ": ", room, " bytes free, gc needs ", kLeastRoom,
                     " to begin: free some space"));
  }
  return room < need + 4 * kReserveBytes;
}

// First what needs no room: epochs that no kept one's chain goes through.
absl::Status GcRun::DropWithoutRewriting() {
  for (const auto& [job, dropped] : dropped_) {
    INCR_ASSIGN_OR_RETURN(const JobView view, LookAt(job, dropped));
    const std::set<uint64_t> needed = WithChains(view.epochs, view.kept);
    std::set<uint64_t> droppable;
    for (const uint64_t epoch : dropped) {
      if (needed.count(epoch) == 0) droppable.insert(epoch);
    }
    INCR_RETURN_IF_ERROR(Publish(job, droppable));
  }
  INCR_RETURN_IF_ERROR(DeleteOrphans());
  return FreeDeadPacks();
}

}  // namespace incr
