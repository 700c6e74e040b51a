#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/checksum.h"
#include "store/manifest.h"
#include "store/store_writer.h"

namespace incr {
namespace {

// Ids are taken over from the pipeline this often: a result there has twice the size.
constexpr uint64_t kPagesAtOnce = 64u << 10;

const PageTable kNoTable;

}  // namespace

class EpochImporterImpl : public EpochImporter {
 public:
  EpochImporterImpl(StoreImpl* store, std::string job, uint64_t last, std::unique_ptr<PackWriter> packs)
      : store_(store), job_(std::move(job)), last_(last), packs_(std::move(packs)) {
    pipeline_ = std::make_unique<PagePipeline>(store_->Tools(), &kNoTable, packs_.get());
  }
  ~EpochImporterImpl() override {
    pipeline_.reset();
    if (block_) store_->blocks_.Give(std::move(block_));
    if (!finished_) packs_->Abandon();
    (void)packs_->TakeBytesWritten();
    store_->packs_->CheckIn(std::move(packs_));
    store_->Release(job_, std::nullopt);
  }

  absl::Status AddPages(const uint8_t* pages, size_t count) override {
    INCR_CHECK(envelopes_.empty() && !called_);
    for (size_t i = 0; i < count; ++i) {
      if (!block_) {
        block_ = store_->blocks_.Take();
        block_->sequence = 1;  // No page comes twice.
      }
      AddToBlock(block_.get(), 0, {added_++, 1}, pages + i * kPageSize);
      if (block_->count == PageBlock::kPages) INCR_RETURN_IF_ERROR(pipeline_->Submit(std::move(block_)));
    }
    return added_ - ids_.size() < kPagesAtOnce ? absl::OkStatus() : TakeIds();
  }

  absl::StatusOr<pb::EpochRecord> AddEpoch(pb::EpochRecord record, PageTable table,
                                           absl::string_view image) override {
    INCR_CHECK(!called_);
    INCR_RETURN_IF_ERROR(TakeIds());
    for (PageTableEntry& entry : table) {
      if (entry.id.is_zero_page()) continue;
      if (entry.id.high != 0 || entry.id.low > ids_.size()) {
        return absl::InvalidArgumentError("a table that names a page which was not added");
      }
      entry.id = ids_[entry.id.low - 1];
    }
    INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, MakeEnvelope(std::move(record), table.size()));
    const std::string manifest = EncodeManifest({table, {}});
    envelope.chain_bytes = envelope.manifest_bytes = manifest.size();
    envelope.manifest_checksum = Checksum64(manifest);
    envelope.image_bytes = image.size();
    envelope.image_checksum = Checksum64(image);
    INCR_RETURN_IF_ERROR(CheckReadable(envelope));
    KvDb& db = *store_->view_->db;
    INCR_RETURN_IF_ERROR(CheckRoom(store_->view_->paths.db, manifest.size() + image.size()));
    // Nobody sees them before the record; the next epoch of this number overwrites what a failure leaves.
    INCR_RETURN_IF_ERROR(WriteChunks(db, KvTable::kManifests, job_, envelope.record.epoch(), manifest));
    INCR_RETURN_IF_ERROR(WriteChunks(db, KvTable::kImages, job_, envelope.record.epoch(), image));
    INCR_RETURN_IF_ERROR(FaultPoint("store.import_epoch"));
    envelopes_.push_back(std::move(envelope));
    return envelopes_.back().record;
  }

  absl::Status Commit() override {
    INCR_CHECK(!called_ && !envelopes_.empty());
    called_ = true;
    INCR_RETURN_IF_ERROR(TakeIds());
    INCR_RETURN_IF_ERROR(packs_->Finish());
    finished_ = true;
    stored_pages_ = pipeline_->stored().size();
    INCR_RETURN_IF_ERROR(FaultPoint("store.import_packs"));
    absl::MutexLock lock(&store_->commit_mutex_);
    KvDb& db = *store_->view_->db;
    INCR_RETURN_IF_ERROR(CheckRoom(store_->view_->paths.db, IndexBytes(stored_pages_)));
    store_->known_->NoteNew(pipeline_->stored());
    INCR_RETURN_IF_ERROR(WriteIndex(db, packs_->finished(), pipeline_->stored()));
    INCR_RETURN_IF_ERROR(FaultPoint("store.import_index"));
    // Since the chunks were written, another job's failure may have had the database opened anew without them.
    INCR_RETURN_IF_ERROR(db.Sync());
    for (const EpochEnvelope& envelope : envelopes_) {
      INCR_RETURN_IF_ERROR(store_->view_->catalog.CheckChunks(envelope));
    }
    INCR_ASSIGN_OR_RETURN(const uint64_t commits, CommitCount(db));
    INCR_RETURN_IF_ERROR(CheckCommitCount(store_->view_->paths, commits, store_->commits_->count()));
    const absl::Status head = WriteHeads(db, envelopes_, commits + 1);
    if (!head.ok()) {
      // It may be in the log all the same. Opening the database again settles it.
      INCR_RETURN_IF_ERROR(db.EnsureHealthy().ok() ? absl::OkStatus() : head);
      absl::StatusOr<uint64_t> now = store_->view_->catalog.Head(job_);
      if (!now.ok() || *now != envelopes_.back().record.epoch()) return head;
    }
    store_->packs_->Committed(packs_->finished());
    store_->known_->Add(pipeline_->stored());
    (void)FaultPoint("store.import_heads");
    (void)store_->commits_->Write(commits + 1);
    return absl::OkStatus();
  }

  uint64_t pages_stored() const override { return stored_pages_; }

 private:
  absl::Status TakeIds() {
    if (block_) INCR_RETURN_IF_ERROR(pipeline_->Submit(std::move(block_)));
    INCR_RETURN_IF_ERROR(pipeline_->Drain());
    ids_.resize(added_);
    for (const PageResult& result : pipeline_->results()) ids_[result.page] = result.id;
    pipeline_->results().clear();
    return absl::OkStatus();
  }

  absl::StatusOr<EpochEnvelope> MakeEnvelope(pb::EpochRecord record, uint64_t table_pages) {
    uint64_t parent = 0;
    if (record.parent() != 0) {
      const auto known = numbers_.find(record.parent());
      if (known == numbers_.end()) return absl::InvalidArgumentError("an epoch before its parent");
      parent = known->second;
    }
    const uint64_t number = last_ + numbers_.size() + 1;
    if (number <= last_ || !numbers_.emplace(record.epoch(), number).second) {
      return absl::InvalidArgumentError("an epoch twice");
    }
    EpochEnvelope envelope;
    record.set_version(1);
    record.set_job(job_);
    record.set_epoch(number);
    record.set_parent(parent);
    record.set_table_pages(table_pages);
    envelope.record = std::move(record);
    return envelope;
  }

  StoreImpl* const store_;
  const std::string job_;
  const uint64_t last_;  // the job's last epoch before
  std::unique_ptr<PackWriter> packs_;
  std::unique_ptr<PagePipeline> pipeline_;
  std::unique_ptr<PageBlock> block_;  // being filled
  uint64_t added_ = 0;
  std::vector<PageId> ids_;  // of the pages added, by number - 1
  std::map<uint64_t, uint64_t> numbers_;  // there -> here
  std::vector<EpochEnvelope> envelopes_;
  uint64_t stored_pages_ = 0;
  bool finished_ = false;  // packs_ durable: no longer to be abandoned
  bool called_ = false;
};

absl::StatusOr<std::unique_ptr<EpochImporter>> Store::BeginImport(absl::string_view) {
  return absl::UnimplementedError("this store takes in no epochs of others");
}

absl::StatusOr<std::unique_ptr<EpochImporter>> StoreImpl::BeginImport(absl::string_view job_name) {
  INCR_RETURN_IF_ERROR(CheckStoreJobName(job_name));
  const std::string job(job_name);
  // As BeginEpoch(): not in the middle of what gc changes.
  absl::ReaderMutexLock lock(&gc_mutex_);
  INCR_RETURN_IF_ERROR(Occupy(job, /*parent=*/0).status());
  const auto begin = [&]() -> absl::StatusOr<std::unique_ptr<EpochImporter>> {
    INCR_RETURN_IF_ERROR(view_->db->EnsureHealthy());
    INCR_ASSIGN_OR_RETURN(const uint64_t last, view_->catalog.LastEpoch(job));
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<PackWriter> packs, packs_->CheckOut());
    return std::make_unique<EpochImporterImpl>(this, job, last, std::move(packs));
  };
  absl::StatusOr<std::unique_ptr<EpochImporter>> importer = begin();
  if (!importer.ok()) Release(job, std::nullopt);
  return importer;
}

}  // namespace incr
