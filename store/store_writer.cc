#include "store/store_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/compare_epochs.h"
#include "store/memory_plan.h"
#include "store/page_fetch.h"

namespace incr {
namespace {

// Page tables kept between epochs, 32 bytes a page; the job used longest ago goes first.
constexpr size_t kHeldTables = 64;

absl::StatusOr<std::unique_ptr<StoreView>> OpenForWriting(const StorePaths& paths, bool create,
                                                          const KvOptions& kv) {
  if (create) {
    INCR_RETURN_IF_ERROR(CreateParts(paths));
    INCR_RETURN_IF_ERROR(KvDb::Open(paths.db, KvDb::Mode::kCreate, kv).status());
    INCR_RETURN_IF_ERROR(FaultPoint("store.before_format"));
    INCR_RETURN_IF_ERROR(WriteFormat(paths));
  }
  INCR_ASSIGN_OR_RETURN(StoreIdentity identity, ReadIdentity(paths));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db, OpenCheckedDatabase(paths, kv));
  return std::make_unique<StoreView>(paths, std::move(identity), std::move(db));
}

KvOptions KvOptionsOf(const StorePaths& paths, const StoreOptions& options) {
  return {paths.io, options.cache_bytes, options.write_buffer_bytes, options.bounded_index};
}

}  // namespace

absl::Status LimitMemory(uint64_t limit_bytes, StoreOptions* options) {
  INCR_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(limit_bytes));
  options->buffer_bytes = plan.buffer_bytes;
  options->max_known_pages = plan.max_known_pages;
  options->cache_bytes = plan.cache_bytes;
  options->write_buffer_bytes = plan.write_buffer_bytes;
  options->bounded_index = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& directory,
                                                   const StoreOptions& options) {
  const StorePaths paths(directory, FileIo(options.faults));
  bool create = false;
  if (options.create_if_missing) {
    INCR_RETURN_IF_ERROR(PrepareDirectory(paths));
    create = !HasFormat(paths);
  }
  // Nothing is written into a directory that is not a store: first look, then lock, then look again.
  if (!create) INCR_RETURN_IF_ERROR(ReadIdentity(paths));
  INCR_RETURN_IF_ERROR(CloseToOthers(paths));
  INCR_ASSIGN_OR_RETURN(ScopedFd lock, LockForWriting(paths));
  INCR_RETURN_IF_ERROR(CheckNoRepairIsReady(paths));
  create = create && !HasFormat(paths);
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreView> view, OpenForWriting(paths, create, KvOptionsOf(paths, options)));
  auto store = std::make_unique<StoreImpl>(options, std::move(lock), std::move(view));
  INCR_RETURN_IF_ERROR(store->Recover());
  return store;
}

absl::Status StoreImpl::Recover() {
  INCR_ASSIGN_OR_RETURN(const uint64_t commits, CommitCount(*view_->db));
  INCR_ASSIGN_OR_RETURN(commits_, CommitFile::Open(view_->paths.commits, commits, view_->paths.io));
  INCR_ASSIGN_OR_RETURN(readers_, ReaderBarrier::Open(view_->paths));
  INCR_ASSIGN_OR_RETURN(auto lengths, ReadPackLengths(*view_->db));
  INCR_ASSIGN_OR_RETURN(packs_, PackSet::Recover(view_->paths.packs, view_->identity.tag,
                                                 options_.pack_bytes, lengths, view_->paths.io));
  known_ = std::make_unique<KnownPages>(view_->db.get(), packs_.get(), options_.max_known_pages);
  INCR_RETURN_IF_ERROR(known_->Load());
  workers_ = std::make_unique<WorkerPool>(options_.workers);
  return absl::OkStatus();
}

std::vector<std::string> StoreImpl::ListJobs() const {
  return view_->catalog.ListJobs().value_or(std::vector<std::string>());
}

absl::StatusOr<std::vector<pb::EpochRecord>> StoreImpl::ListEpochs(absl::string_view job) const {
  return view_->catalog.ListEpochs(job);
}

absl::StatusOr<pb::EpochRecord> StoreImpl::GetEpoch(absl::string_view job, uint64_t epoch) const {
  INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, view_->catalog.GetEpoch(job, epoch));
  return std::move(envelope.record);
}

absl::StatusOr<pb::EpochRecord> StoreImpl::LatestEpoch(absl::string_view job) const {
  absl::ReaderMutexLock lock(&gc_mutex_);
  INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, view_->catalog.LatestEpoch(job));
  return std::move(envelope.record);
}

absl::StatusOr<PageChanges> StoreImpl::ComparePages(absl::string_view job, uint64_t before,
                                                    uint64_t after) const {
  absl::ReaderMutexLock lock(&gc_mutex_);
  return CompareEpochs(view_->catalog, job, before, after);
}

absl::StatusOr<std::string> StoreImpl::ReadImage(absl::string_view job, uint64_t epoch) const {
  absl::ReaderMutexLock lock(&gc_mutex_);
  return view_->catalog.ReadImage(job, epoch);
}

absl::StatusOr<PageTable> StoreImpl::LoadPageTable(absl::string_view job, uint64_t epoch) const {
  absl::ReaderMutexLock lock(&gc_mutex_);
  return view_->catalog.LoadPageTable(job, epoch);
}

absl::Status StoreImpl::ReadPages(
    absl::Span<const PageId> ids,
    absl::FunctionRef<absl::Status(size_t, const uint8_t*)> sink) const {
  // As any reader: between the look-up and the read gc may move bodies.
  INCR_ASSIGN_OR_RETURN(const ReaderLease lease, ReaderLease::Take(view_->paths));
  return FetchPages(*view_->db, view_->packs, ids, sink);
}

absl::StatusOr<std::optional<HeldTable>> StoreImpl::Occupy(const std::string& job,
                                                            uint64_t parent) {
  absl::MutexLock lock(&jobs_mutex_);
  Job& state = jobs_[job];
  if (state.busy) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", job, " already has an epoch in the making"));
  }
  state.busy = true;
  state.parent = parent;
  state.used = ++use_clock_;
  return std::exchange(state.table, std::nullopt);
}

void StoreImpl::Release(const std::string& job, std::optional<HeldTable> table) {
  absl::MutexLock lock(&jobs_mutex_);
  Job& state = jobs_[job];
  state.busy = false;
  state.table = std::move(table);
  if (jobs_.size() <= kHeldTables) return;
  auto oldest = jobs_.end();
  for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
    if (it->second.busy) continue;
    if (oldest == jobs_.end() || it->second.used < oldest->second.used) oldest = it;
  }
  if (oldest != jobs_.end()) jobs_.erase(oldest);
}

PipelineTools StoreImpl::Tools() {
  PipelineTools tools;
  tools.hasher = &view_->hasher;
  tools.known = known_.get();
  tools.db = view_->db.get();
  tools.reader = &view_->packs;
  tools.blocks = &blocks_;
  tools.workers = workers_.get();
  tools.memory = &pipeline_memory_;
  tools.paranoid = options_.paranoid;
  return tools;
}

absl::Status CheckStoreJobName(absl::string_view job) {
  if (IsValidJobName(job)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "job name \"", job, "\": 1 to 64 letters, digits, dots, underscores or hyphens"));
}

absl::StatusOr<std::unique_ptr<EpochWriter>> StoreImpl::BeginEpoch(absl::string_view job_name,
                                                                   uint64_t parent) {
  INCR_RETURN_IF_ERROR(CheckStoreJobName(job_name));
  const std::string job(job_name);
  // From the look at the parent until gc can see that it is needed.
  absl::ReaderMutexLock lock(&gc_mutex_);
  INCR_ASSIGN_OR_RETURN(std::optional<HeldTable> held, Occupy(job, parent));
  absl::StatusOr<std::unique_ptr<EpochWriter>> writer = BeginOccupied(job, parent, held);
  if (!writer.ok()) Release(job, std::move(held));
  return writer;
}

absl::StatusOr<std::unique_ptr<EpochWriter>> StoreImpl::BeginOccupied(
    const std::string& job, uint64_t parent, std::optional<HeldTable>& held) {
  INCR_RETURN_IF_ERROR(view_->db->EnsureHealthy());
  INCR_ASSIGN_OR_RETURN(const uint64_t last, view_->catalog.LastEpoch(job));
  if (last == UINT64_MAX) {
    return absl::DataLossError(absl::StrCat("job ", job, ": its last epoch's number is damaged"));
  }
  EpochEnvelope envelope;
  HeldTable table;
  if (parent != 0) {
    INCR_ASSIGN_OR_RETURN(envelope, view_->catalog.GetEpoch(job, parent));
    if (!held.has_value() || held->epoch != parent) {
      held.reset();  // Before the other is read: one per job.
      INCR_ASSIGN_OR_RETURN(table.table, view_->catalog.LoadPageTable(job, parent));
      table.epoch = parent;
    }
  }
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<PackWriter> packs, packs_->CheckOut());
  if (parent != 0 && held.has_value()) table = *std::exchange(held, std::nullopt);
  return std::make_unique<EpochWriterImpl>(this, job, last + 1, std::move(table),
                                           std::move(envelope), std::move(packs));
}

}  // namespace incr
