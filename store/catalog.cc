#include "store/catalog.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
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
static_assert(kEnvelopeVersion == 1 && kChunkBytes == 1048576 && kMaxEnvelopeBytes == 65536);
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
  AppendLittle<uint32_t>(&out, kEnvelopeVersion);
  AppendLittle<uint32_t>(&out, envelope.depth);
  AppendLittle<uint64_t>(&out, envelope.chain_bytes);
  AppendLittle<uint64_t>(&out, envelope.manifest_bytes);
  AppendLittle<uint64_t>(&out, envelope.manifest_checksum);
  AppendLittle<uint64_t>(&out, envelope.image_bytes);
  AppendLittle<uint64_t>(&out, envelope.image_checksum);
  INCR_CHECK(out.size() == kEnvelopeFixed);
  envelope.record.AppendToString(&out);
  AppendLittle<uint64_t>(&out, Checksum64(out));
  return out;
}

absl::StatusOr<EpochEnvelope> DecodeEnvelope(absl::string_view bytes) {
  if (bytes.size() < kEnvelopeFixed + 8 || bytes.size() > kMaxEnvelopeBytes) {
    return absl::DataLossError("epoch record of a wrong size");
  }
  const char* p = bytes.data();
  if (GetLittle<uint32_t>(p) != kEnvelopeVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch record of version ", GetLittle<uint32_t>(p), ", this program reads ",
                     kEnvelopeVersion));
  }
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
  if (envelope.manifest_bytes > kMaxManifestBytes || envelope.image_bytes > kMaxImageBytes) {
    return absl::DataLossError("epoch record with sizes out of bounds");
  }
  if (!envelope.record.ParseFromArray(p + kEnvelopeFixed, body.size() - kEnvelopeFixed)) {
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

absl::StatusOr<uint64_t> Catalog::Head(absl::string_view job) const {
  absl::StatusOr<std::string> value = db_->Get(KvTable::kJobs, job);
  if (absl::IsNotFound(value.status())) return 0;
  INCR_RETURN_IF_ERROR(value.status());
  if (value->size() != 8) return absl::DataLossError(absl::StrCat("head of job ", job, " damaged"));
  return GetLittle<uint64_t>(value->data());
}

absl::StatusOr<std::string> Catalog::ReadChunks(KvTable table, absl::string_view job,
                                                uint64_t epoch, uint64_t bytes,
                                                uint64_t checksum) const {
  const char* what = table == KvTable::kImages ? "image" : "manifest";
  std::string out;
  for (uint32_t chunk = 0; out.size() < bytes; ++chunk) {
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
  return ReadChunks(KvTable::kImages, job, epoch, envelope.image_bytes, envelope.image_checksum);
}

absl::StatusOr<PageDelta> Catalog::ReadManifest(absl::string_view job, uint64_t epoch,
                                                const EpochEnvelope& envelope) const {
  INCR_ASSIGN_OR_RETURN(std::string bytes,
                        ReadChunks(KvTable::kManifests, job, epoch, envelope.manifest_bytes,
                                   envelope.manifest_checksum));
  absl::StatusOr<PageDelta> delta = DecodeManifest(bytes, MaxTablePages());
  if (!delta.ok()) return Annotate(delta.status(), Name(job, epoch));
  return delta;
}

absl::StatusOr<PageTable> Catalog::LoadPageTable(absl::string_view job, uint64_t epoch) const {
  INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, GetEpoch(job, epoch));
  const uint64_t expected_pages = envelope.record.table_pages();
  INCR_ASSIGN_OR_RETURN(PageDelta delta, ReadManifest(job, epoch, envelope));
  uint64_t at = epoch;
  while (envelope.depth > 0) {
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
    INCR_ASSIGN_OR_RETURN(PageDelta older, ReadManifest(job, at, envelope));
    delta = Combine(older, delta);
    if (delta.written.size() > MaxTablePages()) {
      return absl::ResourceExhaustedError(absl::StrCat(Name(job, epoch), ": table too large"));
    }
  }
  // The first of the chain is a full table: nothing lies beneath it to be gone from.
  if (delta.written.size() != expected_pages) {
    return absl::DataLossError(absl::StrCat(Name(job, epoch), ": its table has ",
                                            delta.written.size(), " pages instead of ",
                                            expected_pages));
  }
  return std::move(delta.written);
}

absl::Status WriteChunks(KvDb& db, KvTable table, absl::string_view job, uint64_t epoch,
                         absl::string_view bytes) {
  KvBatch batch;
  for (uint32_t chunk = 0; !bytes.empty(); ++chunk) {
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
  INCR_RETURN_IF_ERROR(ReadChunks(KvTable::kManifests, job, epoch, envelope.manifest_bytes,
                                  envelope.manifest_checksum).status());
  return ReadChunks(KvTable::kImages, job, epoch, envelope.image_bytes, envelope.image_checksum).status();
}

absl::Status WriteRecord(KvDb& db, const EpochEnvelope& envelope) {
  KvBatch batch;
  batch.Add(KvTable::kEpochs, EpochKey(envelope.record.job(), envelope.record.epoch()),
            EncodeEnvelope(envelope));
  return db.Write(batch, /*sync=*/false);
}

absl::Status WriteHead(KvDb& db, const EpochEnvelope& envelope, uint64_t commits) {
  return WriteHeads(db, {&envelope, 1}, commits);
}

absl::Status WriteHeads(KvDb& db, absl::Span<const EpochEnvelope> envelopes, uint64_t commits) {
  KvBatch batch;
  for (const EpochEnvelope& envelope : envelopes) {
    batch.Add(KvTable::kEpochs, EpochKey(envelope.record.job(), envelope.record.epoch()),
              EncodeEnvelope(envelope));
  }
  const pb::EpochRecord& last = envelopes.back().record;
  std::string head;
  AppendLittle<uint64_t>(&head, last.epoch());
  batch.Add(KvTable::kJobs, last.job(), std::move(head));
  AddCommitCount(&batch, commits);
  return db.Write(batch, /*sync=*/true);
}

}  // namespace incr
