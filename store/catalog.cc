#include "store/catalog.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/checksum.h"
#include "store/commit_count.h"
#include "store/manifest.h"

namespace incr {
namespace {

// Positions in the envelope; the record follows, then a checksum of all before it.
constexpr size_t kDepth = 4, kChainBytes = 8, kManifestBytes = 16, kManifestSum = 24,
                 kImageBytes = 32, kImageSum = 40, kEnvelopeFixed = 48;
// Version 2 only.
constexpr size_t kFirstChunk = 48, kEnvelopeFixed2 = 56;
static_assert(kEnvelopeVersion == 2 && kChunkBytes == 1048576 && kMaxEnvelopeBytes == 65536);
static_assert(kOtherFirstChunk == 65536 && kMaxManifestBytes / kChunkBytes < kOtherFirstChunk);
constexpr size_t kFlushBytes = 4u << 20;

std::string JobPrefix(absl::string_view job) {
  std::string key(job);
  key.push_back('\0');
  return key;
}

std::string EpochKey(absl::string_view job, uint64_t epoch) {
  char number[8];
  PutBig64(number, epoch);
  return JobPrefix(job).append(number, sizeof number);
}

std::string ChunkKey(absl::string_view job, uint64_t epoch, uint32_t chunk) {
  char number[4];
  PutBig32(number, chunk);
  return EpochKey(job, epoch).append(number, sizeof number);
}

// In the table of jobs, under what can be no job's name: an older program passes over it.
std::string DroppedKey(absl::string_view job) { return absl::StrCat(absl::string_view("\0dropped ", 9), job); }

std::string Name(absl::string_view job, uint64_t epoch) {
  return absl::StrCat("epoch ", epoch, " of job ", job);
}

// "1-7, 9"
std::string EpochNumbers(const std::vector<pb::EpochRecord>& records) {
  std::vector<std::string> runs;
  for (size_t i = 0; i < records.size();) {
    size_t end = i + 1;
    while (end < records.size() && records[end].epoch() == records[end - 1].epoch() + 1) ++end;
    runs.push_back(end - i == 1 ? absl::StrCat(records[i].epoch())
                                : absl::StrCat(records[i].epoch(), "-", records[end - 1].epoch()));
    i = end;
  }
  return absl::StrJoin(runs, ", ");
}

// Deltas from the newest to the oldest, joined as they come. Like a binary counter: parts of equal rank are joined
// first, so that a thousand small deltas are not each merged with all that came before.
class DeltaChain {
 public:
  void AddOlder(PageDelta delta) {
    pages_ += delta.written.size();
    parts_.push_back({std::move(delta), 0});
    while (parts_.size() > 1 && (parts_.back().rank >= parts_[parts_.size() - 2].rank ||
                                 pages_ > MaxTablePages())) {
      JoinLastTwo();
    }
  }
  uint64_t pages() const { return pages_; }
  PageDelta Take() && {
    while (parts_.size() > 1) JoinLastTwo();
    return parts_.empty() ? PageDelta() : std::move(parts_[0].delta);
  }

 private:
  struct Part {
    PageDelta delta;
    int rank;
  };
  void JoinLastTwo() {
    const Part older = std::move(parts_.back());
    parts_.pop_back();
    Part& newer = parts_.back();
    pages_ -= older.delta.written.size() + newer.delta.written.size();
    newer.delta = Combine(older.delta, newer.delta);
    newer.rank = std::max(newer.rank, older.rank) + 1;
    pages_ += newer.delta.written.size();
  }

  std::vector<Part> parts_;  // the newest first
  uint64_t pages_ = 0;       // in all of them
};

}  // namespace

// A table may take an eighth of the machine's memory: more is damage or hostile.
uint64_t MaxTablePages() {
  if (!FaultPoint("store.small_tables").ok()) return 64;
  const uint64_t memory = uint64_t(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  return std::max<uint64_t>(memory / 8 / sizeof(PageTableEntry), 1u << 16);
}

bool IsValidJobName(absl::string_view job) {
  return !job.empty() && job.size() <= 64 && std::all_of(job.begin(), job.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '.' || c == '_' || c == '-';
  });
}

std::string EncodeEnvelope(const EpochEnvelope& envelope) {
  std::string out;
  const uint32_t version = envelope.first_chunk == 0 ? 1 : 2;
  AppendLittle<uint32_t>(&out, version);
  AppendLittle<uint32_t>(&out, envelope.depth);
  AppendLittle<uint64_t>(&out, envelope.chain_bytes);
  AppendLittle<uint64_t>(&out, envelope.manifest_bytes);
  AppendLittle<uint64_t>(&out, envelope.manifest_checksum);
  AppendLittle<uint64_t>(&out, envelope.image_bytes);
  AppendLittle<uint64_t>(&out, envelope.image_checksum);
  INCR_CHECK(out.size() == kEnvelopeFixed);
  if (version == 2) {
    AppendLittle<uint32_t>(&out, envelope.first_chunk);
    AppendLittle<uint32_t>(&out, 0);
    INCR_CHECK(out.size() == kEnvelopeFixed2);
  }
  envelope.record.AppendToString(&out);
  AppendLittle<uint64_t>(&out, Checksum64(out));
  return out;
}

absl::StatusOr<EpochEnvelope> DecodeEnvelope(absl::string_view bytes) {
  if (bytes.size() < kEnvelopeFixed + 8 || bytes.size() > kMaxEnvelopeBytes) {
    return absl::DataLossError("epoch record of a wrong size");
  }
  const char* p = bytes.data();
  const uint32_t version = GetLittle<uint32_t>(p);
  if (version < 1 || version > kEnvelopeVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "epoch record of version ", version, ", this program reads up to ", kEnvelopeVersion));
  }
  const size_t fixed = version == 1 ? kEnvelopeFixed : kEnvelopeFixed2;
  if (bytes.size() < fixed + 8) return absl::DataLossError("epoch record of a wrong size");
  const absl::string_view body = bytes.substr(0, bytes.size() - 8);
  if (GetLittle<uint64_t>(p + body.size()) != Checksum64(body)) {
    return absl::DataLossError("epoch record damaged");
  }
  EpochEnvelope envelope;
  envelope.depth = GetLittle<uint32_t>(p + kDepth);
  envelope.chain_bytes = GetLittle<uint64_t>(p + kChainBytes);
  envelope.manifest_bytes = GetLittle<uint64_t>(p + kManifestBytes);
  envelope.manifest_checksum = GetLittle<uint64_t>(p + kManifestSum);
  envelope.image_bytes = GetLittle<uint64_t>(p + kImageBytes);
  envelope.image_checksum = GetLittle<uint64_t>(p + kImageSum);
  if (version == 2) envelope.first_chunk = GetLittle<uint32_t>(p + kFirstChunk);
  if (envelope.first_chunk > kOtherFirstChunk) {
    return absl::DataLossError("epoch record with chunks out of bounds");
  }
  if (envelope.manifest_bytes > kMaxManifestBytes || envelope.image_bytes > kMaxImageBytes) {
    return absl::DataLossError("epoch record with sizes out of bounds");
  }
  if (!envelope.record.ParseFromArray(p + fixed, body.size() - fixed)) {
    return absl::DataLossError("epoch record is no EpochRecord");
  }
  return envelope;
}

absl::StatusOr<std::vector<std::string>> Catalog::ListJobs() const {
  std::vector<std::string> jobs;
  INCR_RETURN_IF_ERROR(db_->Scan(KvTable::kJobs, "", [&](absl::string_view key, absl::string_view) {
    if (IsValidJobName(key)) jobs.emplace_back(key);
    return absl::OkStatus();
  }));
  jobs.erase(std::remove_if(jobs.begin(), jobs.end(),
                            [this](const std::string& job) {
                              return absl::IsNotFound(db_->LastKey(KvTable::kEpochs, JobPrefix(job)).status());
                            }),
             jobs.end());
  return jobs;
}

absl::StatusOr<std::vector<pb::EpochRecord>> Catalog::ListEpochs(absl::string_view job) const {
  std::vector<pb::EpochRecord> records;
  INCR_RETURN_IF_ERROR(db_->Scan(
      KvTable::kEpochs, JobPrefix(job), [&](absl::string_view key, absl::string_view value) {
        if (key.size() != job.size() + 1 + 8) return absl::OkStatus();
        ++records_;
        const uint64_t epoch = GetBig64(key.data() + job.size() + 1);
        absl::StatusOr<EpochEnvelope> envelope = DecodeEnvelope(value);
        if (!envelope.ok()) return Annotate(envelope.status(), Name(job, epoch));
        records.push_back(std::move(envelope->record));
        return absl::OkStatus();
      }));
  if (records.empty()) return absl::NotFoundError(absl::StrCat("no job ", job, " in the store"));
  return records;
}

absl::StatusOr<EpochEnvelope> Catalog::GetEpoch(absl::string_view job, uint64_t epoch) const {
  ++records_;
  absl::StatusOr<std::string> value = db_->Get(KvTable::kEpochs, EpochKey(job, epoch));
  if (absl::IsNotFound(value.status())) {
    INCR_ASSIGN_OR_RETURN(std::vector<pb::EpochRecord> records, ListEpochs(job));
    return absl::NotFoundError(absl::StrCat("job ", job, " has no epoch ", epoch, "; it has ",
                                            EpochNumbers(records)));
  }
  INCR_RETURN_IF_ERROR(value.status());
  absl::StatusOr<EpochEnvelope> envelope = DecodeEnvelope(*value);
  if (!envelope.ok()) return Annotate(envelope.status(), Name(job, epoch));
  if (envelope->record.job() != job || envelope->record.epoch() != epoch ||
      envelope->record.parent() >= epoch) {
    return absl::DataLossError(absl::StrCat(Name(job, epoch), ": record of another epoch"));
  }
  return envelope;
}

absl::StatusOr<uint64_t> Catalog::LastRecord(absl::string_view job) const {
  absl::StatusOr<std::string> last = db_->LastKey(KvTable::kEpochs, JobPrefix(job));
  if (absl::IsNotFound(last.status())) {
    return absl::NotFoundError(absl::StrCat("no job ", job, " in the store"));
  }
  INCR_RETURN_IF_ERROR(last.status());
  if (last->size() != job.size() + 1 + 8) {
    return absl::DataLossError(absl::StrCat("job ", job, ": an epoch record under a wrong key"));
  }
  return GetBig64(last->data() + job.size() + 1);
}

absl::StatusOr<EpochEnvelope> Catalog::LatestEpoch(absl::string_view job) const {
  INCR_ASSIGN_OR_RETURN(const uint64_t last, LastRecord(job));
  return GetEpoch(job, last);
}

absl::StatusOr<uint64_t> Catalog::LastEpoch(absl::string_view job) const {
  INCR_ASSIGN_OR_RETURN(const uint64_t head, Head(job));
  absl::StatusOr<std::string> last = db_->LastKey(KvTable::kEpochs, JobPrefix(job));
  if (absl::IsNotFound(last.status())) return head;
  INCR_RETURN_IF_ERROR(last.status());
  if (last->size() != job.size() + 1 + 8) {
    return absl::DataLossError(absl::StrCat("job ", job, ": an epoch record under a wrong key"));
  }
  // The records count too: a head that was lost must not give a committed epoch's number again.
  return std::max(head, GetBig64(last->data() + job.size() + 1));
}

absl::StatusOr<uint64_t> Catalog::DroppedHead(absl::string_view job) const { return Head(DroppedKey(job)); }

void AddDroppedHead(KvBatch* batch, absl::string_view job, uint64_t head) {
  std::string value;
  AppendLittle<uint64_t>(&value, head);
  batch->Add(KvTable::kJobs, DroppedKey(job), std::move(value));
}

absl::StatusOr<uint64_t> Catalog::Head(absl::string_view job) const {
  absl::StatusOr<std::string> value = db_->Get(KvTable::kJobs, job);
  if (absl::IsNotFound(value.status())) return 0;
  INCR_RETURN_IF_ERROR(value.status());
  if (value->size() != 8) return absl::DataLossError(absl::StrCat("head of job ", job, " damaged"));
  return GetLittle<uint64_t>(value->data());
}

absl::StatusOr<std::string> Catalog::ReadChunks(KvTable table, absl::string_view job,
                                                uint64_t epoch, uint32_t first_chunk,
                                                uint64_t bytes, uint64_t checksum) const {
  const char* what = table == KvTable::kImages ? "image" : "manifest";
  std::string out;
  for (uint32_t chunk = first_chunk; out.size() < bytes; ++chunk) {
    absl::StatusOr<std::string> part = db_->Get(table, ChunkKey(job, epoch, chunk));
    if (!part.ok() && !absl::IsNotFound(part.status())) return part.status();
    const uint64_t expected = std::min<uint64_t>(kChunkBytes, bytes - out.size());
    if (!part.ok() || part->size() != expected) {
      return absl::DataLossError(
          absl::StrCat(Name(job, epoch), ": chunk ", chunk, " of its ", what, " is missing"));
    }
    out.append(*part);
  }
  if (Checksum64(out) != checksum) {
    return absl::DataLossError(absl::StrCat(Name(job, epoch), ": ", what, " damaged (checksum)"));
  }
  return out;
}

absl::StatusOr<std::string> Catalog::ReadImage(absl::string_view job, uint64_t epoch) const {
  INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, GetEpoch(job, epoch));
  return ReadChunks(KvTable::kImages, job, epoch, 0, envelope.image_bytes, envelope.image_checksum);
}

absl::StatusOr<PageDelta> Catalog::ReadManifest(absl::string_view job, uint64_t epoch,
                                                const EpochEnvelope& envelope) const {
  ++manifests_;
  manifest_bytes_ += envelope.manifest_bytes;
  INCR_ASSIGN_OR_RETURN(std::string bytes,
                        ReadChunks(KvTable::kManifests, job, epoch, envelope.first_chunk,
                                   envelope.manifest_bytes, envelope.manifest_checksum));
  absl::StatusOr<PageDelta> delta = DecodeManifest(bytes, MaxTablePages());
  if (!delta.ok()) return Annotate(delta.status(), Name(job, epoch));
  return delta;
}

absl::StatusOr<PageTable> Catalog::LoadPageTable(absl::string_view job, uint64_t epoch) const {
  INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, GetEpoch(job, epoch));
  const uint64_t expected_pages = envelope.record.table_pages();
  DeltaChain chain;
  uint64_t at = epoch;
  while (envelope.depth > 0) {
    INCR_ASSIGN_OR_RETURN(PageDelta older, ReadManifest(job, at, envelope));
    chain.AddOlder(std::move(older));
    if (chain.pages() > MaxTablePages()) {
      return absl::ResourceExhaustedError(absl::StrCat(Name(job, epoch), ": table too large"));
    }
    const uint32_t depth = envelope.depth;
    at = envelope.record.parent();
    absl::StatusOr<EpochEnvelope> parent = GetEpoch(job, at);
    if (!parent.ok()) {
      return absl::DataLossError(absl::StrCat(Name(job, epoch), ": its chain is broken: ",
                                              parent.status().message()));
    }
    envelope = *std::move(parent);
    if (envelope.depth + 1 != depth) {
      return absl::DataLossError(absl::StrCat(Name(job, at), ": out of place in the chain"));
    }
  }
  // The first of the chain is a full table: nothing lies beneath it to be gone from.
  INCR_ASSIGN_OR_RETURN(PageDelta base, ReadManifest(job, at, envelope));
  const PageDelta delta = std::move(chain).Take();
  PageTable table = delta == PageDelta() ? std::move(base.written) : Overlay(base.written, delta);
  if (table.size() != expected_pages) {
    return absl::DataLossError(absl::StrCat(Name(job, epoch), ": its table has ", table.size(),
                                            " pages instead of ", expected_pages));
  }
  return table;
}

absl::Status WriteChunks(KvDb& db, KvTable table, absl::string_view job, uint64_t epoch,
                         absl::string_view bytes, uint32_t first_chunk) {
  KvBatch batch;
  for (uint32_t chunk = first_chunk; !bytes.empty(); ++chunk) {
    batch.Add(table, ChunkKey(job, epoch, chunk), std::string(bytes.substr(0, kChunkBytes)));
    bytes.remove_prefix(std::min(bytes.size(), kChunkBytes));
    if (batch.bytes() >= kFlushBytes || bytes.empty()) {
      INCR_RETURN_IF_ERROR(db.Write(batch, /*sync=*/false));
      batch = KvBatch();
    }
  }
  return absl::OkStatus();
}

absl::Status Catalog::CheckChunks(const EpochEnvelope& envelope) const {
  const std::string& job = envelope.record.job();
  const uint64_t epoch = envelope.record.epoch();
  INCR_RETURN_IF_ERROR(ReadChunks(KvTable::kManifests, job, epoch, envelope.first_chunk,
                                  envelope.manifest_bytes, envelope.manifest_checksum).status());
  return ReadChunks(KvTable::kImages, job, epoch, 0, envelope.image_bytes, envelope.image_checksum).status();
}

absl::Status WriteRecord(KvDb& db, const EpochEnvelope& envelope) {
  KvBatch batch;
  AddEnvelope(&batch, envelope);
  return db.Write(batch, /*sync=*/false);
}

absl::Status WriteHead(KvDb& db, const EpochEnvelope& envelope, uint64_t commits) {
  return WriteHeads(db, {&envelope, 1}, commits);
}

absl::Status WriteHeads(KvDb& db, absl::Span<const EpochEnvelope> envelopes, uint64_t commits) {
  KvBatch batch;
  for (const EpochEnvelope& envelope : envelopes) AddEnvelope(&batch, envelope);
  const pb::EpochRecord& last = envelopes.back().record;
  std::string head;
  AppendLittle<uint64_t>(&head, last.epoch());
  batch.Add(KvTable::kJobs, last.job(), std::move(head));
  AddCommitCount(&batch, commits);
  return db.Write(batch, /*sync=*/true);
}

absl::StatusOr<std::vector<std::string>> Catalog::JobsWithEpochs() const {
  std::vector<std::string> jobs;
  for (std::string from;;) {
    absl::StatusOr<std::string> key = db_->NextKey(KvTable::kEpochs, from);
    if (absl::IsNotFound(key.status())) return jobs;
    INCR_RETURN_IF_ERROR(key.status());
    const std::string job = key->substr(0, key->find('\0'));
    if (!IsValidJobName(job)) return absl::DataLossError("an epoch record under a wrong key");
    jobs.push_back(job);
    from = job + '\1';  // Behind all keys of this job.
  }
}

absl::Status Catalog::ForEachEpoch(
    absl::string_view job, absl::FunctionRef<absl::Status(const EpochEnvelope&)> row) const {
  return db_->Scan(
      KvTable::kEpochs, JobPrefix(job), [&](absl::string_view key, absl::string_view value) {
        if (key.size() != job.size() + 1 + 8) return absl::OkStatus();
        const uint64_t epoch = GetBig64(key.data() + job.size() + 1);
        absl::StatusOr<EpochEnvelope> envelope = DecodeEnvelope(value);
        if (!envelope.ok()) return Annotate(envelope.status(), Name(job, epoch));
        if (envelope->record.job() != job || envelope->record.epoch() != epoch ||
            envelope->record.parent() >= epoch) {
          return absl::DataLossError(absl::StrCat(Name(job, epoch), ": record of another epoch"));
        }
        return row(*envelope);
      });
}

void AddEnvelope(KvBatch* batch, const EpochEnvelope& envelope) {
  batch->Add(KvTable::kEpochs, EpochKey(envelope.record.job(), envelope.record.epoch()),
             EncodeEnvelope(envelope));
}

void AddUnpublish(KvBatch* batch, absl::string_view job, uint64_t epoch) {
  batch->Delete(KvTable::kEpochs, EpochKey(job, epoch));
}

void AddDeleteChunks(KvBatch* batch, KvTable table, absl::string_view job, uint64_t epoch,
                     uint32_t first, uint32_t end) {
  batch->DeleteRange(table, ChunkKey(job, epoch, first), ChunkKey(job, epoch, end));
}

namespace {

// The chunks of one table that `job` may have: by epoch, [first, end).
using ChunkRanges = std::map<uint64_t, std::pair<uint32_t, uint32_t>>;

// Passes from epoch to epoch, not over every chunk.
absl::Status DeleteOtherChunks(KvDb& db, KvTable table, absl::string_view job, uint64_t head,
                               const ChunkRanges& ranges) {
  const std::string prefix = JobPrefix(job);
  KvBatch batch;
  for (std::string from = prefix;;) {
    absl::StatusOr<std::string> key = db.NextKey(table, from);
    if (absl::IsNotFound(key.status())) break;
    INCR_RETURN_IF_ERROR(key.status());
    if (key->compare(0, prefix.size(), prefix) != 0) break;
    if (key->size() != prefix.size() + 12) {
      return absl::DataLossError(absl::StrCat("job ", job, ": a chunk under a wrong key"));
    }
    const uint64_t epoch = GetBig64(key->data() + prefix.size());
    const uint32_t chunk = GetBig32(key->data() + prefix.size() + 8);
    if (epoch > head) break;  // In the making.
    const auto kept = ranges.find(epoch);
    if (kept == ranges.end()) {
      // Together with its neighbours that are nobody's either: a mark per epoch would slow reading.
      const auto next = ranges.upper_bound(epoch);
      const std::string end = next == ranges.end() ? EpochKey(job, head + 1) : EpochKey(job, next->first);
      batch.DeleteRange(table, *key, end);
      from = end;
    } else if (chunk < kept->second.first) {
      AddDeleteChunks(&batch, table, job, epoch, chunk, kept->second.first);
      from = ChunkKey(job, epoch, kept->second.first);
    } else if (chunk < kept->second.second) {
      from = ChunkKey(job, epoch, kept->second.second);
    } else {
      batch.DeleteRange(table, *key, EpochKey(job, epoch + 1));
      from = EpochKey(job, epoch + 1);
    }
  }
  return batch.puts().empty() ? absl::OkStatus() : db.Write(batch, /*sync=*/false);
}

uint32_t Chunks(uint64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes; }

}  // namespace

absl::Status DeleteOrphanChunks(KvDb& db, absl::string_view job, uint64_t head) {
  if (head == UINT64_MAX) return absl::DataLossError(absl::StrCat("head of job ", job, " damaged"));
  ChunkRanges manifests, images;
  INCR_RETURN_IF_ERROR(Catalog(&db).ForEachEpoch(job, [&](const EpochEnvelope& envelope) {
    const uint64_t epoch = envelope.record.epoch();
    manifests[epoch] = {envelope.first_chunk,
                        envelope.first_chunk + Chunks(envelope.manifest_bytes)};
    images[epoch] = {0, Chunks(envelope.image_bytes)};
    return absl::OkStatus();
  }));
  INCR_RETURN_IF_ERROR(DeleteOtherChunks(db, KvTable::kManifests, job, head, manifests));
  return DeleteOtherChunks(db, KvTable::kImages, job, head, images);
}

}  // namespace incr
