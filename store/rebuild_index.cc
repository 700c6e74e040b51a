#include "store/rebuild_index.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/status.h"
#include "store/commit_count.h"
#include "store/kv_db.h"
#include "store/pack_format.h"
#include "store/pack_reader.h"
#include "store/pack_set.h"
#include "store/page_index.h"
#include "store/store_directory.h"

namespace incr {
namespace {

class PackWalk {
 public:
  PackWalk(const StorePaths& paths, const StoreIdentity& identity)
      : paths_(paths),
        tag_(identity.tag),
        hasher_(identity.secret),
        reader_(paths.packs, &hasher_),
        segment_(kSegmentMaxBytes) {}

  // Adds what `pack` holds to entries() and makes it durable.
  absl::Status Walk(uint32_t pack, uint64_t known_length) {
    const std::string path = absl::StrCat(paths_.packs, "/", PackName(pack));
    INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(path, O_RDONLY | O_NOFOLLOW));
    struct stat info;
    if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("stat(", path, ")"));
    uint64_t end = kPackHeaderBytes;
    for (uint64_t at = kPackHeaderBytes; at + kSegmentHeaderBytes <= uint64_t(info.st_size);) {
      INCR_ASSIGN_OR_RETURN(const size_t n,
                            PreadUpTo(fd.get(), segment_.data(), kSegmentMaxBytes, at, path));
      const size_t used = TakeSegment(pack, at, n);
      if (used == 0) {
        // Not a segment: one may begin at any later block.
        at += kBlockBytes;
        result_.skipped_bytes += kBlockBytes;
      } else {
        at += used;
        end = at;
      }
    }
    // What the index is about to refer to may never have been synced.
    if (::fdatasync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("fdatasync(", path, ")"));
    lengths_.push_back({pack, std::max(end, known_length)});
    ++result_.packs;
    return absl::OkStatus();
  }

  std::vector<IndexEntry>& entries() { return entries_; }
  const std::vector<PackLength>& lengths() const { return lengths_; }
  RebuildResult& result() { return result_; }

 private:
  // Bytes of the whole segment at the start of segment_, 0 if there is none.
  size_t TakeSegment(uint32_t pack, uint64_t at, size_t available) {
    if (available < kSegmentHeaderBytes) return 0;
    absl::StatusOr<SegmentHeader> header = DecodeSegmentHeader(segment_.data(), pack, at, tag_);
    if (!header.ok() || header->total_bytes > available) return 0;
    absl::StatusOr<std::vector<SegmentEntry>> table =
        DecodeSegmentTable(*header, segment_.data());
    if (!table.ok()) return 0;
    uint8_t page[kPageSize];
    for (const SegmentEntry& entry : *table) {
      const PageLocation location{pack, at + entry.offset, entry.length, entry.encoding};
      if (reader_.Decode(entry.id, location, segment_.data() + entry.offset, page).ok()) {
        entries_.push_back({entry.id, location});
      } else {
        ++result_.damaged_pages;
      }
    }
    ++result_.segments;
    return header->total_bytes;
  }

  const StorePaths paths_;
  const uint64_t tag_;
  const PageHasher hasher_;
  const PackReader reader_;
  std::vector<uint8_t> segment_;
  std::vector<IndexEntry> entries_;
  std::vector<PackLength> lengths_;
  RebuildResult result_;
};

absl::StatusOr<std::unique_ptr<KvDb>> OpenOrRepair(const StorePaths& paths, bool* repaired) {
  absl::StatusOr<std::unique_ptr<KvDb>> db = KvDb::Open(paths.db, KvDb::Mode::kReadWrite);
  // A log cut short costs less than a repair, unless acknowledged commits lie behind the damage.
  if (!db.ok()) db = OpenCheckedDatabase(paths);
  if (db.ok()) return db;
  *repaired = true;
  // No database at all is not repaired but created.
  if (::access(paths.db.c_str(), F_OK) == 0) (void)KvDb::Repair(paths.db);
  return KvDb::Open(paths.db, KvDb::Mode::kCreate);
}

// What is lost is lost: counted from here on, so that the store opens again.
absl::Status SettleCommitCount(const StorePaths& paths, KvDb& db) {
  absl::StatusOr<std::optional<uint64_t>> acknowledged = ReadCommitFile(paths.commits);
  if (absl::IsDataLoss(acknowledged.status())) {
    if (::unlink(paths.commits.c_str()) == 0) return absl::OkStatus();
    return ErrnoStatus(absl::StrCat("unlink(", paths.commits, ")"));
  }
  INCR_RETURN_IF_ERROR(acknowledged.status());
  const absl::StatusOr<uint64_t> counted = CommitCount(db);
  if (counted.ok() && *counted >= acknowledged->value_or(0)) return absl::OkStatus();
  KvBatch batch;
  AddCommitCount(&batch, acknowledged->value_or(0));
  return db.Write(batch, /*sync=*/true);
}

}  // namespace

absl::StatusOr<RebuildResult> RebuildIndex(const std::string& directory) {
  const StorePaths paths(directory);
  INCR_ASSIGN_OR_RETURN(const StoreIdentity identity, ReadIdentity(paths));
  INCR_ASSIGN_OR_RETURN(const ScopedFd lock, LockForWriting(paths));
  PackWalk walk(paths, identity);
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db,
                        OpenOrRepair(paths, &walk.result().database_repaired));
  absl::StatusOr<std::map<uint32_t, uint64_t>> known = ReadPackLengths(*db);
  INCR_ASSIGN_OR_RETURN(const std::vector<uint32_t> packs, ListPacks(paths.packs));
  for (const uint32_t pack : packs) {
    const bool has_length = known.ok() && known->count(pack) != 0;
    INCR_RETURN_IF_ERROR(walk.Walk(pack, has_length ? known->at(pack) : 0));
  }
  std::vector<IndexEntry>& entries = walk.entries();
  std::stable_sort(entries.begin(), entries.end(),
                   [](const IndexEntry& a, const IndexEntry& b) { return a.id < b.id; });
  entries.erase(std::unique(entries.begin(), entries.end(),
                            [](const IndexEntry& a, const IndexEntry& b) { return a.id == b.id; }),
                entries.end());
  INCR_RETURN_IF_ERROR(db->DeleteAll(KvTable::kPages));
  INCR_RETURN_IF_ERROR(WriteIndex(*db, walk.lengths(), entries));
  INCR_RETURN_IF_ERROR(db->Sync());
  INCR_RETURN_IF_ERROR(SettleCommitCount(paths, *db));
  walk.result().pages = entries.size();
  return walk.result();
}

}  // namespace incr
