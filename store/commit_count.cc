#include "store/commit_count.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/checksum.h"

namespace incr {
namespace {

// In the table of jobs, under what can be no job's name: an older program passes over it.
constexpr absl::string_view kCountKey("\0commits", 8);

// A slot: magic, u32 version, u32 0, u64 count, u64 checksum of all before, zeros.
constexpr char kMagic[8] = {'I', 'C', 'K', 'C', 'M', 'T', 'S', '\n'};
constexpr size_t kVersionAt = 8, kCountAt = 16, kSumAt = 24, kSlotUsed = 32;
static_assert(kCommitFileVersion == 1 && kCommitSlotBytes == 4096);

std::string EncodeSlot(uint64_t count) {
  std::string slot(kMagic, sizeof kMagic);
  AppendLittle<uint32_t>(&slot, kCommitFileVersion);
  AppendLittle<uint32_t>(&slot, 0);
  AppendLittle<uint64_t>(&slot, count);
  AppendLittle<uint64_t>(&slot, Checksum64(slot));
  INCR_CHECK(slot.size() == kSlotUsed);
  slot.resize(kCommitSlotBytes);
  return slot;
}

std::optional<uint64_t> DecodeSlot(const char* slot) {
  if (std::memcmp(slot, kMagic, sizeof kMagic) != 0 ||
      GetLittle<uint32_t>(slot + kVersionAt) != kCommitFileVersion ||
      GetLittle<uint64_t>(slot + kSumAt) != Checksum64(slot, kSumAt)) {
    return std::nullopt;
  }
  return GetLittle<uint64_t>(slot + kCountAt);
}

struct Slot {
  int number = 0;
  uint64_t count = 0;
};

// The slot that counts; none if there is no file.
absl::StatusOr<std::optional<Slot>> ReadSlots(const std::string& path, FileIo io) {
  absl::StatusOr<ScopedFd> fd = io.Open(path, O_RDONLY | O_NONBLOCK);
  if (absl::IsNotFound(fd.status())) return std::optional<Slot>();
  INCR_RETURN_IF_ERROR(fd.status());
  std::string bytes(2 * kCommitSlotBytes, '\0');
  INCR_RETURN_IF_ERROR(io.PreadUpTo(fd->get(), bytes.data(), bytes.size(), 0, path).status());
  std::optional<Slot> best;
  for (int number = 0; number < 2; ++number) {
    // One torn slot is a write that a power cut interrupted: never acknowledged.
    const std::optional<uint64_t> count = DecodeSlot(bytes.data() + number * kCommitSlotBytes);
    if (count.has_value() && (!best.has_value() || *count > best->count)) best = {number, *count};
  }
  if (best.has_value()) return best;
  return absl::DataLossError(absl::StrCat(path, " is damaged; `incr-ckpt repair` makes it anew"));
}

}  // namespace

absl::StatusOr<uint64_t> CommitCount(const KvDb& db) {
  absl::StatusOr<std::string> value = db.Get(KvTable::kJobs, kCountKey);
  if (absl::IsNotFound(value.status())) return 0;
  INCR_RETURN_IF_ERROR(value.status());
  if (value->size() != 8) return absl::DataLossError("the database's commit count is damaged");
  return GetLittle<uint64_t>(value->data());
}

void AddCommitCount(KvBatch* batch, uint64_t count) {
  std::string value;
  AppendLittle<uint64_t>(&value, count);
  batch->Add(KvTable::kJobs, std::string(kCountKey), std::move(value));
}

absl::StatusOr<std::optional<uint64_t>> ReadCommitFile(const std::string& path, FileIo io) {
  INCR_ASSIGN_OR_RETURN(const std::optional<Slot> slot, ReadSlots(path, io));
  return slot.has_value() ? std::optional<uint64_t>(slot->count) : std::nullopt;
}

absl::Status CheckCommitSlots(const std::string& path, FileIo io) {
  constexpr int kTries = 5;  // A live writer may be at it.
  for (int i = 0;; ++i) {
    absl::StatusOr<std::string> bytes = io.ReadWhole(path, 2 * kCommitSlotBytes);
    if (absl::IsNotFound(bytes.status())) return absl::OkStatus();
    INCR_RETURN_IF_ERROR(bytes.status());
    bool whole = bytes->size() == 2 * kCommitSlotBytes;
    for (int slot = 0; slot < 2 && whole; ++slot) {
      const std::string one = bytes->substr(slot * kCommitSlotBytes, kCommitSlotBytes);
      const std::optional<uint64_t> count = DecodeSlot(one.data());
      whole = one == (count.has_value() ? EncodeSlot(*count) : std::string(kCommitSlotBytes, '\0'));
    }
    if (whole) return absl::OkStatus();
    if (i == kTries) {
      return absl::DataLossError(absl::StrCat(path, ": one of its two slots is damaged; the other one counts"));
    }
    ::usleep(1000 << i);
  }
}

absl::StatusOr<CommitFile> CommitFile::Open(const std::string& path, uint64_t count, FileIo io) {
  INCR_ASSIGN_OR_RETURN(std::optional<Slot> slot, ReadSlots(path, io));
  if (!slot.has_value()) {
    INCR_RETURN_IF_ERROR(Renew(path, count, io));
    slot = {0, count};
  }
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, io.Open(path, O_WRONLY | O_NONBLOCK));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("fstat(", path, ")"));
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  return CommitFile(io, path, std::move(fd), slot->number, std::max(count, slot->count));
}

absl::Status CommitFile::Renew(const std::string& path, uint64_t count, FileIo io) {
  // Both slots, that later writes change no metadata.
  return io.WriteDurably(path, EncodeSlot(count) + std::string(kCommitSlotBytes, '\0'));
}

absl::Status CommitFile::Write(uint64_t count) {
  count_ = std::max(count_, count);
  const std::string bytes = EncodeSlot(count);
  INCR_RETURN_IF_ERROR(
      io_.PwriteExactly(fd_.get(), bytes.data(), bytes.size(), (1 - slot_) * kCommitSlotBytes, path_));
  INCR_RETURN_IF_ERROR(io_.Sync(fd_.get(), path_));
  slot_ = 1 - slot_;
  return absl::OkStatus();
}

absl::Status CheckCommitCount(const StorePaths& paths, uint64_t counted, uint64_t acknowledged) {
  if (counted >= acknowledged) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "store ", paths.root, ": ", acknowledged, " commits were acknowledged, its database knows ",
      counted, ": put a whole copy of ", paths.db,
      " back, or let `incr-ckpt repair` go on with what is left"));
}

absl::StatusOr<std::unique_ptr<KvDb>> OpenCheckedDatabase(const StorePaths& paths,
                                                          const KvOptions& options) {
  INCR_ASSIGN_OR_RETURN(const std::optional<uint64_t> acknowledged, ReadCommitFile(paths.commits, paths.io));
  const auto check = [&](const KvDb& db) -> absl::Status {
    INCR_ASSIGN_OR_RETURN(const uint64_t counted, CommitCount(db));
    return CheckCommitCount(paths, counted, acknowledged.value_or(0));
  };
  const auto damaged = [&](const absl::Status& status) {
    return Annotate(status, absl::StrCat("store ", paths.root,
                                         ": its database is damaged; `incr-ckpt repair` salvages it"));
  };
  absl::StatusOr<std::unique_ptr<KvDb>> db = KvDb::Open(paths.db, KvDb::Mode::kReadWrite, options);
  if (absl::IsDataLoss(db.status())) {
    // Opening without the log's end removes the log: first a look that changes nothing.
    if (acknowledged.has_value()) {
      absl::StatusOr<std::unique_ptr<KvDb>> look = KvDb::Open(paths.db, KvDb::Mode::kReadOnly, options);
      if (!look.ok()) return damaged(look.status());
      INCR_RETURN_IF_ERROR(check(**look));
    }
    db = KvDb::Open(paths.db, KvDb::Mode::kReadWriteCutLog, options);
    if (absl::IsDataLoss(db.status())) return damaged(db.status());
  }
  INCR_RETURN_IF_ERROR(db.status());
  INCR_RETURN_IF_ERROR(check(**db));
  return db;
}

}  // namespace incr
