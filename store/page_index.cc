#include "store/page_index.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/byte_order.h"

namespace incr {
namespace {

std::string PackKey(uint32_t pack) {
  char key[4];
  PutBig32(key, pack);
  return std::string(key, sizeof key);
}

// Wanting a large part of the index, one pass over it beats as many look-ups.
constexpr size_t kScanShare = 8;

// About how many entries there are from the first to the last of `ids`: they are hashes.
double RowsBetween(const KvDb& db, absl::Span<const PageId> ids) {
  const double part = static_cast<double>(ids.back().high - ids.front().high) / 0x1p64;
  return part * static_cast<double>(db.EstimateRows(KvTable::kPages));
}

absl::StatusOr<PageLocation> DecodeLocationOf(const PageId& id, absl::string_view value) {
  absl::StatusOr<PageLocation> location = DecodeLocation(value);
  if (location.ok()) return location;
  return Annotate(location.status(), absl::StrCat("page ", PageIdText(id)));
}

absl::Status FindPage(const KvDb& db, const PageId& id,
                      absl::FunctionRef<absl::Status(size_t i, const PageLocation&)> found) {
  char key[kPageIdBytes];
  EncodePageId(id, key);
  const absl::StatusOr<std::string> value = db.Get(KvTable::kPages, absl::string_view(key, sizeof key));
  if (absl::IsNotFound(value.status())) return absl::OkStatus();
  INCR_RETURN_IF_ERROR(value.status());
  INCR_ASSIGN_OR_RETURN(const PageLocation location, DecodeLocationOf(id, *value));
  return found(0, location);
}

absl::Status FindByScan(const KvDb& db, absl::Span<const PageId> ids,
                        absl::FunctionRef<absl::Status(size_t, const PageLocation&)> found) {
  size_t next = 0;
  char first[kPageIdBytes];
  EncodePageId(ids[0], first);
  const absl::Status status = db.ScanSome(
      KvTable::kPages, absl::string_view(first, sizeof first), SIZE_MAX, [&](absl::string_view key, absl::string_view value) {
        if (key.size() != kPageIdBytes) return absl::OkStatus();
        const PageId id = DecodePageId(key.data());
        while (next < ids.size() && ids[next] < id) ++next;
        for (; next < ids.size() && ids[next] == id; ++next) {
          INCR_ASSIGN_OR_RETURN(const PageLocation location, DecodeLocationOf(id, value));
          INCR_RETURN_IF_ERROR(found(next, location));
        }
        return next < ids.size() ? absl::OkStatus() : absl::CancelledError();
      });
  return next == ids.size() && absl::IsCancelled(status) ? absl::OkStatus() : status;
}

}  // namespace

absl::StatusOr<PreparedIndex> PrepareIndex(KvDb& db, std::vector<IndexEntry>& entries) {
  std::sort(entries.begin(), entries.end(),
            [](const IndexEntry& a, const IndexEntry& b) { return a.id < b.id; });
  PreparedIndex prepared;
  if (entries.size() < kIngestEntries) return prepared;
  char key[kPageIdBytes], value[kLocationBytes];
  INCR_ASSIGN_OR_RETURN(prepared.file, db.PrepareIngest(KvTable::kPages, entries.size(), [&](size_t i) {
    EncodePageId(entries[i].id, key);
    EncodeLocation(entries[i].location, value);
    return std::make_pair(absl::string_view(key, sizeof key), absl::string_view(value, sizeof value));
  }));
  return prepared;
}

absl::Status WriteIndex(KvDb& db, absl::Span<const PackLength> lengths, const std::vector<IndexEntry>& entries,
                        PreparedIndex prepared) {
  KvBatch batch;
  for (const PackLength& length : lengths) {
    batch.Add(KvTable::kPacks, PackKey(length.pack), EncodePackLength(length.bytes));
  }
  if (prepared.file != nullptr) {
    // The lengths first, and synced: an entry must never outlive the length that covers it.
    INCR_RETURN_IF_ERROR(db.Write(batch, /*sync=*/true));
    return db.Ingest(std::move(prepared.file));
  }
  char key[kPageIdBytes], value[kLocationBytes];
  for (const IndexEntry& entry : entries) {
    EncodePageId(entry.id, key);
    EncodeLocation(entry.location, value);
    batch.Add(KvTable::kPages, std::string(key, sizeof key), std::string(value, sizeof value));
  }
  // The log keeps the order: what is synced later (the head) makes this durable too.
  return batch.puts().empty() ? absl::OkStatus() : db.Write(batch, /*sync=*/false);
}

absl::Status WriteIndex(KvDb& db, absl::Span<const PackLength> lengths,
                        std::vector<IndexEntry>& entries) {
  INCR_ASSIGN_OR_RETURN(PreparedIndex prepared, PrepareIndex(db, entries));
  return WriteIndex(db, lengths, entries, std::move(prepared));
}

absl::Status FindPages(const KvDb& db, absl::Span<const PageId> ids,
                       absl::FunctionRef<absl::Status(size_t i, const PageLocation&)> found) {
  if (ids.size() > 4096 && ids.size() * kScanShare > RowsBetween(db, ids)) {
    return FindByScan(db, ids, found);
  }
  if (ids.size() == 1) return FindPage(db, ids[0], found);
  constexpr size_t kGroup = 4096;
  std::vector<std::string> keys;
  std::vector<absl::string_view> views;
  for (size_t first = 0; first < ids.size(); first += kGroup) {
    const size_t n = std::min(kGroup, ids.size() - first);
    keys.clear();
    views.clear();
    keys.reserve(n);
    for (size_t i = 0; i < n; ++i) {
      char key[kPageIdBytes];
      EncodePageId(ids[first + i], key);
      keys.emplace_back(key, sizeof key);
      views.push_back(keys.back());
    }
    INCR_RETURN_IF_ERROR(
        db.MultiGet(KvTable::kPages, views, [&](size_t i, absl::string_view value) {
          INCR_ASSIGN_OR_RETURN(const PageLocation location, DecodeLocationOf(ids[first + i], value));
          return found(first + i, location);
        }));
  }
  return absl::OkStatus();
}

absl::Status ForEachPage(const KvDb& db,
                         absl::FunctionRef<absl::Status(const IndexEntry&)> row) {
  return db.Scan(KvTable::kPages, "", [&](absl::string_view key, absl::string_view value) {
    absl::StatusOr<PageLocation> location = DecodeLocation(value);
    if (key.size() != kPageIdBytes || !location.ok()) return absl::OkStatus();
    return row({DecodePageId(key.data()), *location});
  });
}

void AddForgetPack(KvBatch* batch, uint32_t pack) { batch->Delete(KvTable::kPacks, PackKey(pack)); }

absl::StatusOr<std::map<uint32_t, uint64_t>> ReadPackLengths(const KvDb& db) {
  std::map<uint32_t, uint64_t> lengths;
  INCR_RETURN_IF_ERROR(
      db.Scan(KvTable::kPacks, "", [&](absl::string_view key, absl::string_view value) {
        if (key.size() != 4) return absl::DataLossError("pack record with a wrong key");
        const uint32_t pack = GetBig32(key.data());
        absl::StatusOr<uint64_t> length = DecodePackLength(value);
        if (!length.ok()) return Annotate(length.status(), PackName(pack));
        lengths[pack] = *length;
        return absl::OkStatus();
      }));
  return lengths;
}

}  // namespace incr
