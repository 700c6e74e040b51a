#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/checksum.h"
#include "store/manifest.h"
#include "store/store_writer.h"

namespace incr {
namespace {

constexpr uint32_t kDeepestChain = 16;  // times full_table_every: each delta is a look-up when read

absl::Status CheckRange(uint32_t space, PageRange range) {
  if (range.first <= kMaxPageNumber && range.count <= kMaxPageNumber - range.first) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("space ", space, ": pages ", range.first, " + ",
                                                 range.count, " out of bounds"));
}

}  // namespace

// RocksDB on a full disk cannot even open again to forget a failed write: leave it room for the log
// and for the table files that the log becomes.
absl::Status CheckRoom(const std::string& path, uint64_t bytes) {
  constexpr uint64_t kReserve = 4u << 20;
  struct statvfs info;
  if (::statvfs(path.c_str(), &info) != 0) return absl::OkStatus();  // The write will tell.
  const uint64_t room = uint64_t{info.f_bavail} * info.f_frsize;
  if (room >= 2 * bytes + kReserve) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(path, ": ", room, " bytes free, the epoch's records need ",
                                                   2 * bytes + kReserve, ": free some space"));
}

absl::Status CheckReadable(const EpochEnvelope& envelope) {
  const pb::EpochRecord& record = envelope.record;
  const std::string name = absl::StrCat("epoch ", record.epoch(), " of job ", record.job());
  if (record.table_pages() > MaxTablePages()) {
    return absl::ResourceExhaustedError(absl::StrCat(name, ": table of ", record.table_pages(),
                                                     " pages, this machine takes ",
                                                     MaxTablePages()));
  }
  if (envelope.manifest_bytes > kMaxManifestBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        name, ": manifest of ", envelope.manifest_bytes, " bytes, at most ", kMaxManifestBytes));
  }
  if (const size_t bytes = EncodeEnvelope(envelope).size(); bytes > kMaxEnvelopeBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name, ": record of ", bytes, " bytes, at most ", kMaxEnvelopeBytes));
  }
  return absl::OkStatus();
}

EpochWriterImpl::EpochWriterImpl(StoreImpl* store, std::string job, uint64_t epoch,
                                 HeldTable parent, EpochEnvelope parent_envelope,
                                 std::unique_ptr<PackWriter> packs)
    : store_(store),
      job_(std::move(job)),
      epoch_(epoch),
      parent_(std::move(parent)),
      parent_envelope_(std::move(parent_envelope)),
      packs_(std::move(packs)) {
  pipeline_ = std::make_unique<PagePipeline>(store_->Tools(), &parent_.table, packs_.get());
}

EpochWriterImpl::~EpochWriterImpl() {
  pipeline_.reset();
  if (block_) store_->blocks_.Give(std::move(block_));
  if (!finished_) packs_->Abandon();
  (void)packs_->TakeBytesWritten();
  store_->packs_->CheckIn(std::move(packs_));
  // Not committed: the parent's table is still the one to go on from.
  store_->Release(job_, parent_.epoch == 0 ? std::optional<HeldTable>() : std::move(parent_));
}

absl::Status EpochWriterImpl::SubmitBlock() {
  if (!block_) return absl::OkStatus();
  return pipeline_->Submit(std::move(block_));
}

absl::Status EpochWriterImpl::AddPages(uint32_t space, PageRange range, const uint8_t* bytes) {
  INCR_CHECK(!called_);
  INCR_RETURN_IF_ERROR(error_);
  INCR_RETURN_IF_ERROR(CheckRange(space, range));
  for (uint64_t done = 0; done < range.count;) {
    if (!block_) {
      block_ = store_->blocks_.Take();
      block_->sequence = ++sequence_;
    }
    const size_t n = std::min<uint64_t>(PageBlock::kPages - block_->count, range.count - done);
    AddToBlock(block_.get(), space, {range.first + done, n}, bytes + done * kPageSize);
    done += n;
    if (block_->count == PageBlock::kPages) {
      if (error_ = SubmitBlock(); !error_.ok()) return error_;
    }
  }
  return absl::OkStatus();
}

absl::Status EpochWriterImpl::AddGone(uint32_t space, PageRange range) {
  INCR_CHECK(!called_);
  INCR_RETURN_IF_ERROR(error_);
  INCR_RETURN_IF_ERROR(CheckRange(space, range));
  if (range.count == 0) return absl::OkStatus();
  if (error_ = SubmitBlock(); !error_.ok()) return error_;
  gone_.Add(space, range, ++sequence_);
  return absl::OkStatus();
}

absl::Status EpochWriterImpl::Settle() {
  INCR_CHECK(!called_);
  INCR_RETURN_IF_ERROR(error_);
  if (error_ = SubmitBlock(); !error_.ok()) return error_;
  error_ = pipeline_->Drain();
  return error_;
}

// Makes the packs durable; beside it, what the index and the manifest need only the ids for.
absl::StatusOr<ResolvedEpoch> EpochWriterImpl::FinishPages() {
  INCR_RETURN_IF_ERROR(SubmitBlock());
  INCR_RETURN_IF_ERROR(pipeline_->Drain());
  absl::Status packs_durable;
  ResolvedEpoch resolved;
  const auto finish = [&] { packs_durable = packs_->Finish(); };
  const auto resolve = [&] {
    KeepLastWrites(&pipeline_->results());
    resolved = ResolveEpoch(parent_.table, pipeline_->results(), gone_);
    std::vector<PageResult>().swap(pipeline_->results());  // Of a first epoch it is large.
  };
  absl::StatusOr<PreparedIndex> prepared;
  if (pipeline_->stored().size() < kIngestEntries) {
    // To wake another thread would take longer.
    finish();
    INCR_RETURN_IF_ERROR(packs_durable);
    resolve();
    prepared = PrepareIndex(*store_->view_->db, pipeline_->stored());
  } else {
    INCR_RETURN_IF_ERROR(CheckRoom(store_->view_->paths.db, IndexBytes(pipeline_->stored().size())));
    absl::BlockingCounter others(2);
    store_->workers_->RunNext([&] { resolve(), others.DecrementCount(); });
    store_->workers_->RunNext([&] { finish(), others.DecrementCount(); });
    prepared = PrepareIndex(*store_->view_->db, pipeline_->stored());
    others.Wait();
    INCR_RETURN_IF_ERROR(packs_durable);
  }
  finished_ = true;
  INCR_RETURN_IF_ERROR(prepared.status());
  prepared_ = *std::move(prepared);
  return resolved;
}

bool EpochWriterImpl::WantsFullTable(uint64_t delta_bytes, uint64_t table_pages) const {
  if (parent_.epoch == 0) return true;
  const uint32_t depth = parent_envelope_.depth + 1;
  const uint64_t table_bytes = table_pages * 17 + 4096;
  // Of the deltas alone: the chain begins with its full table.
  const uint64_t base_bytes = parent_.base_bytes != 0 ? parent_.base_bytes : table_bytes;
  const uint64_t chain_bytes = parent_envelope_.chain_bytes + delta_bytes;
  const uint64_t deltas_bytes = chain_bytes - std::min(chain_bytes, base_bytes);
  // Reading a chain of deltas that are together several tables long helps nobody; and a table of
  // megabytes after every few deltas of a hundred bytes is most of what a fast job writes.
  if (deltas_bytes > 3 * table_bytes) return true;
  if (depth >= kDeepestChain * store_->options_.full_table_every) return true;
  if (depth >= store_->options_.full_table_every) return deltas_bytes > table_bytes / 4;
  return false;
}

EpochEnvelope EpochWriterImpl::MakeEnvelope(pb::EpochRecord record,
                                            const ResolvedEpoch& resolved) const {
  EpochEnvelope envelope;
  record.set_version(1);
  record.set_job(job_);
  record.set_epoch(epoch_);
  record.set_parent(parent_.epoch);
  record.mutable_stats()->set_pages_written(resolved.stats.pages_written());
  record.mutable_stats()->set_pages_gone(resolved.stats.pages_gone());
  record.mutable_stats()->set_pages_zero(resolved.stats.pages_zero());
  record.mutable_stats()->set_pages_deduplicated(resolved.stats.pages_deduplicated());
  record.mutable_stats()->set_pages_stored(resolved.stats.pages_stored());
  record.mutable_stats()->set_bytes_stored(packs_->TakeBytesWritten());
  envelope.record = std::move(record);
  return envelope;
}

absl::StatusOr<pb::EpochRecord> EpochWriterImpl::Commit(pb::EpochRecord record,
                                                        absl::string_view image) {
  INCR_CHECK(!called_);
  called_ = true;
  INCR_RETURN_IF_ERROR(error_);
  if (image.size() > kMaxImageBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("job ", job_, ": image of ", image.size(),
                                                     " bytes, at most ", kMaxImageBytes));
  }
  INCR_ASSIGN_OR_RETURN(const ResolvedEpoch resolved, FinishPages());
  EpochEnvelope envelope = MakeEnvelope(std::move(record), resolved);

  std::string manifest = EncodeManifest(resolved.delta);
  envelope.record.set_table_pages(resolved.table_pages);
  envelope.depth = parent_envelope_.depth + 1;
  envelope.chain_bytes = parent_envelope_.chain_bytes + manifest.size();
  PageTable table;
  const bool full = WantsFullTable(manifest.size(), resolved.table_pages);
  if (full) {
    table = Overlay(parent_.table, resolved.delta);
    INCR_CHECK(table.size() == resolved.table_pages);
    manifest = EncodeManifest({table, {}});
    envelope.depth = 0;
    envelope.chain_bytes = manifest.size();
  }
  envelope.manifest_bytes = manifest.size();
  envelope.manifest_checksum = Checksum64(manifest);
  envelope.image_bytes = image.size();
  envelope.image_checksum = Checksum64(image);
  INCR_RETURN_IF_ERROR(CheckReadable(envelope));
  INCR_RETURN_IF_ERROR(WriteEpoch(envelope, manifest, image));
  // Only now: had the commit failed, the parent's table would still be the one to go on from.
  if (full) {
    parent_.table = std::move(table);
    parent_.base_bytes = envelope.manifest_bytes;
  } else if (!OverlayInPlace(parent_.table, resolved.delta)) {
    parent_.table = Overlay(parent_.table, resolved.delta);
  }
  INCR_CHECK(parent_.table.size() == resolved.table_pages);
  parent_.epoch = epoch_;
  return std::move(envelope.record);
}

absl::Status EpochWriterImpl::WriteEpoch(EpochEnvelope& envelope, absl::string_view manifest,
                                         absl::string_view image) {
  KvDb& db = *store_->view_->db;
  absl::MutexLock lock(&store_->commit_mutex_);
  if (envelope.depth > 0) {
    // gc may have made its chain shorter since BeginEpoch.
    INCR_ASSIGN_OR_RETURN(const EpochEnvelope parent,
                          store_->view_->catalog.GetEpoch(job_, parent_.epoch));
    envelope.depth = parent.depth + 1;
    envelope.chain_bytes = parent.chain_bytes + manifest.size();
  }
  // A sorted file is there already.
  const uint64_t index_bytes = prepared_.file == nullptr ? IndexBytes(pipeline_->stored().size()) : 0;
  INCR_RETURN_IF_ERROR(
      CheckRoom(store_->view_->paths.db, index_bytes + manifest.size() + image.size()));
  store_->known_->NoteNew(pipeline_->stored());
  INCR_RETURN_IF_ERROR(WriteIndex(db, packs_->finished(), pipeline_->stored(), std::move(prepared_)));
  INCR_RETURN_IF_ERROR(FaultPoint("store.after_index"));
  INCR_RETURN_IF_ERROR(WriteChunks(db, KvTable::kManifests, job_, epoch_, manifest));
  INCR_RETURN_IF_ERROR(WriteChunks(db, KvTable::kImages, job_, epoch_, image));
  INCR_RETURN_IF_ERROR(FaultPoint("store.after_manifest"));
  INCR_ASSIGN_OR_RETURN(const uint64_t commits, CommitCount(db));
  // A database opened anew after a failed write may have dropped more than that write.
  INCR_RETURN_IF_ERROR(
      CheckCommitCount(store_->view_->paths, commits, store_->commits_->count()));
  const absl::Status head = WriteHead(db, envelope, commits + 1);
  if (!head.ok()) {
    // It may be in the log all the same. Opening the database again settles it.
    INCR_RETURN_IF_ERROR(db.EnsureHealthy().ok() ? absl::OkStatus() : head);
    absl::StatusOr<uint64_t> now = store_->view_->catalog.Head(job_);
    if (!now.ok() || *now != epoch_) return head;
  }
  // Not before: opened anew after a failed head, the database may have lost the index entries too.
  store_->packs_->Committed(packs_->finished());
  store_->known_->Add(pipeline_->stored());
  // Committed: an error from here on would be a lie.
  (void)FaultPoint("store.after_head");
  (void)store_->commits_->Write(commits + 1);
  return absl::OkStatus();
}

}  // namespace incr
