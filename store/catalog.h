// catalog.h — jobs and epochs in the database: records, manifests, images, heads.
//
//   manifests  job \0 epoch chunk -> <= 1 MiB of the manifest      (epoch, chunk big-endian)
//   images     job \0 epoch chunk -> <= 1 MiB of the image
//   epochs     job \0 epoch       -> envelope: sizes, checksums, EpochRecord
//   jobs       job                -> highest epoch; \0commits -> how many commits (commit_count.h)
//              \0dropped job      -> the highest epoch, if a repair has dropped it
//
// An epoch exists once its envelope does; it is written last, with the head. Thread-safe.
#ifndef INCR_CKPT_STORE_CATALOG_H_
#define INCR_CKPT_STORE_CATALOG_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/epoch.pb.h"
#include "store/kv_db.h"
#include "store/page_delta.h"

namespace incr {

inline constexpr uint32_t kEnvelopeVersion = 2;  // 1, unless first_chunk is not 0
// Where a manifest's chunks begin if gc has written it anew; it alternates between this and 0.
inline constexpr uint32_t kOtherFirstChunk = 1u << 16;
inline constexpr size_t kChunkBytes = 1u << 20;
inline constexpr uint64_t kMaxImageBytes = 256u << 20;
inline constexpr size_t kMaxEnvelopeBytes = 64u << 10;

// What an epoch's value in the table holds.
struct EpochEnvelope {
  uint32_t depth = 0;  // deltas since the last full table; 0: its manifest is a full table
  uint64_t chain_bytes = 0;  // of the manifests from that table to this epoch
  uint64_t manifest_bytes = 0, manifest_checksum = 0;
  uint64_t image_bytes = 0, image_checksum = 0;
  uint32_t first_chunk = 0;  // of the manifest
  pb::EpochRecord record;
};

std::string EncodeEnvelope(const EpochEnvelope& envelope);
absl::StatusOr<EpochEnvelope> DecodeEnvelope(absl::string_view bytes);

// The largest page table that LoadPageTable loads, so the largest that may be committed.
uint64_t MaxTablePages();

// [A-Za-z0-9._-]{1,64}
bool IsValidJobName(absl::string_view job);

class Catalog {
 public:
  explicit Catalog(const KvDb* db) : db_(db) {}

  // Those with epochs. (One without keeps its head, so that no number is given twice.)
  absl::StatusOr<std::vector<std::string>> ListJobs() const;
  absl::StatusOr<std::vector<pb::EpochRecord>> ListEpochs(absl::string_view job) const;
  absl::StatusOr<EpochEnvelope> GetEpoch(absl::string_view job, uint64_t epoch) const;
  // Highest epoch number ever given, by the job's head or its records; 0: none.
  absl::StatusOr<uint64_t> LastEpoch(absl::string_view job) const;
  // The job's head alone.
  absl::StatusOr<uint64_t> Head(absl::string_view job) const;
  // The head that a repair left without its record, having said so; 0: none did.
  absl::StatusOr<uint64_t> DroppedHead(absl::string_view job) const;
  absl::StatusOr<std::string> ReadImage(absl::string_view job, uint64_t epoch) const;
  absl::StatusOr<PageTable> LoadPageTable(absl::string_view job, uint64_t epoch) const;
  // The epoch's own delta, or full table, its manifest's checksum verified; `envelope` as GetEpoch gave it.
  absl::StatusOr<PageDelta> ReadManifest(absl::string_view job, uint64_t epoch,
                                         const EpochEnvelope& envelope) const;
  // Whether manifest and image are there and match their checksums.
  absl::Status CheckChunks(const EpochEnvelope& envelope) const;
  // The highest number of a record, be it whole or not. kNotFound names the job.
  absl::StatusOr<uint64_t> LastRecord(absl::string_view job) const;
  // The record with the highest number. kNotFound names the job.
  absl::StatusOr<EpochEnvelope> LatestEpoch(absl::string_view job) const;

  // For gc: every job that has an epoch, with or without a head.
  absl::StatusOr<std::vector<std::string>> JobsWithEpochs() const;
  // By epoch number; none is no error.
  absl::Status ForEachEpoch(absl::string_view job,
                            absl::FunctionRef<absl::Status(const EpochEnvelope&)> row) const;

  // What has been read so far: tests bound the work of opening, listing and comparing by it.
  struct Work {
    uint64_t records = 0;
    uint64_t manifests = 0;
    uint64_t manifest_bytes = 0;
  };
  Work work() const { return {records_, manifests_, manifest_bytes_}; }

 private:
  absl::StatusOr<std::string> ReadChunks(KvTable table, absl::string_view job, uint64_t epoch,
                                         uint32_t first_chunk, uint64_t bytes,
                                         uint64_t checksum) const;

  const KvDb* const db_;
  mutable std::atomic<uint64_t> records_{0}, manifests_{0}, manifest_bytes_{0};
};

// The writing side, in this order. Chunks are durable with the next synced write.
absl::Status WriteChunks(KvDb& db, KvTable table, absl::string_view job, uint64_t epoch,
                         absl::string_view bytes, uint32_t first_chunk = 0);
// The record alone; not synced.
absl::Status WriteRecord(KvDb& db, const EpochEnvelope& envelope);
// `commits`: the store's commits, this one included.
absl::Status WriteHead(KvDb& db, const EpochEnvelope& envelope, uint64_t commits);
// The same for several epochs of one job, ascending, at once.
absl::Status WriteHeads(KvDb& db, absl::Span<const EpochEnvelope> envelopes, uint64_t commits);

// repair's side: see DroppedHead().
void AddDroppedHead(KvBatch* batch, absl::string_view job, uint64_t head);

// gc's side.
void AddEnvelope(KvBatch* batch, const EpochEnvelope& envelope);
void AddUnpublish(KvBatch* batch, absl::string_view job, uint64_t epoch);
// Deletes chunks [first, end) of one epoch.
void AddDeleteChunks(KvBatch* batch, KvTable table, absl::string_view job, uint64_t epoch,
                     uint32_t first, uint32_t end);
// Deletes chunks of manifests and images that belong to no epoch of `job` up to number `head`:
// of unpublished ones, and what a gc or a commit that was cut short left.
absl::Status DeleteOrphanChunks(KvDb& db, absl::string_view job, uint64_t head);

}  // namespace incr

#endif  // INCR_CKPT_STORE_CATALOG_H_
