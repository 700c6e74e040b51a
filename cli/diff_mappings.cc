#include "cli/diff_mappings.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/page_range.h"
#include "cli/show_image.h"

namespace incr {
namespace {

using Mappings = google::protobuf::RepeatedPtrField<pb::Mapping>;

// Addresses where nothing changes within: what was there, what is there; null: nothing.
struct Piece {
  uint64_t start = 0, end = 0;
  const pb::Mapping* before = nullptr;
  const pb::Mapping* after = nullptr;
};

std::vector<Piece> Sweep(const Mappings& before, const Mappings& after) {
  std::vector<uint64_t> edges;
  for (const Mappings* mappings : {&before, &after}) {
    for (const pb::Mapping& mapping : *mappings) {
      edges.push_back(mapping.start());
      edges.push_back(mapping.end());
    }
  }
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  std::vector<Piece> pieces;
  auto old = before.begin();
  auto now = after.begin();
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    Piece piece{edges[i], edges[i + 1]};
    while (old != before.end() && old->end() <= piece.start) ++old;
    while (now != after.end() && now->end() <= piece.start) ++now;
    if (old != before.end() && old->start() <= piece.start) piece.before = &*old;
    if (now != after.end() && now->start() <= piece.start) piece.after = &*now;
    if (piece.before != nullptr || piece.after != nullptr) pieces.push_back(piece);
  }
  return pieces;
}

uint64_t InodeOf(const pb::Image& image, const pb::Mapping& mapping) {
  for (const pb::MemoryObject& object : image.memory_objects()) {
    if (object.id() == mapping.memory_object()) return object.ino();
  }
  return 0;
}

bool HasOffset(const pb::Mapping& mapping) {
  return mapping.has_file() || mapping.kind() == pb::Mapping::SHARED_OBJECT;
}

// Whether both map the same thing; offsets apart.
bool SameThing(const pb::Image& before_image, const pb::Mapping& before,
               const pb::Image& after_image, const pb::Mapping& after) {
  return before.kind() == after.kind() && before.name() == after.name() &&
         before.file().path() == after.file().path() && before.file().dev() == after.file().dev() &&
         before.file().ino() == after.file().ino() &&
         (before.kind() != pb::Mapping::SHARED_OBJECT ||
          InodeOf(before_image, before) == InodeOf(after_image, after));
}

pb::DiffMapping Row(const char* change, const pb::Mapping& mapping, uint64_t start, uint64_t end) {
  const pb::ShowMapping shown = DescribeMapping(mapping);
  pb::DiffMapping row;
  row.set_change(change);
  row.set_start(absl::StrCat("0x", absl::Hex(start)));
  row.set_end(absl::StrCat("0x", absl::Hex(end)));
  row.set_access(shown.access());
  row.set_kind(shown.kind());
  row.set_name(shown.name());
  return row;
}

struct Change {
  uint64_t start = 0, end = 0;
  const pb::Mapping* mapping = nullptr;
  pb::DiffMapping row;
};

// Puts `next` behind, or joins it to the one before it that goes on alike.
void Append(std::vector<Change>* changes, Change next) {
  if (!changes->empty()) {
    Change& last = changes->back();
    if (last.end == next.start && last.row.access() == next.row.access() &&
        last.row.access_before() == next.row.access_before() &&
        last.row.kind() == next.row.kind() && last.row.name() == next.row.name()) {
      last.end = next.end;
      last.row.set_end(next.row.end());
      return;
    }
  }
  changes->push_back(std::move(next));
}

// Pages of [start, end) with `kind`, from its start.
std::vector<uint64_t> PagesOf(const PageChanges& changes, uint32_t space, PageChangeKind kind,
                              const Change& where) {
  const uint64_t first = where.start / kPageSize, end = where.end / kPageSize;
  std::vector<uint64_t> pages;
  auto at = std::lower_bound(changes.begin(), changes.end(), std::make_pair(space, first),
                             [](const PageChange& change, const auto& key) {
                               return std::make_pair(change.space, change.page) < key;
                             });
  for (; at != changes.end() && at->space == space && at->page < end; ++at) {
    if (at->kind == kind) pages.push_back(at->page - first);
  }
  return pages;
}

bool IsWhole(const Change& change) {
  return change.start == change.mapping->start() && change.end == change.mapping->end();
}

class MoveFinder {
 public:
  MoveFinder(const pb::Image& before, const pb::Image& after, const PageChanges& changes)
      : before_(before), after_(after), changes_(changes) {}

  bool IsMove(const Change& went, const Change& came) const {
    if (!IsWhole(went) || !IsWhole(came) || went.end - went.start != came.end - came.start ||
        !SameThing(before_, *went.mapping, after_, *came.mapping)) {
      return false;
    }
    if (HasOffset(*went.mapping)) return went.mapping->offset() == came.mapping->offset();
    const std::vector<uint64_t> pages = PagesOf(changes_, before_.processes(0).space(),
                                                PageChangeKind::kGone, went);
    return !pages.empty() && pages == PagesOf(changes_, after_.processes(0).space(),
                                              PageChangeKind::kAdded, came);
  }

 private:
  const pb::Image& before_;
  const pb::Image& after_;
  const PageChanges& changes_;
};

}  // namespace

std::vector<pb::DiffMapping> DiffMappings(const pb::Image& before, const pb::Image& after,
                                          const PageChanges& changes) {
  std::vector<Change> came, went, protection;
  for (const Piece& piece :
       Sweep(before.processes(0).mappings(), after.processes(0).mappings())) {
    const auto [start, end, old, now] = piece;
    if (old != nullptr && now != nullptr && SameThing(before, *old, after, *now) &&
        (!HasOffset(*old) || old->offset() - old->start() == now->offset() - now->start())) {
      pb::DiffMapping row = Row("protection", *now, start, end);
      row.set_access_before(DescribeMapping(*old).access());
      if (row.access() != row.access_before()) Append(&protection, {start, end, now, row});
      continue;
    }
    if (old != nullptr) Append(&went, {start, end, old, Row("went", *old, start, end)});
    if (now != nullptr) Append(&came, {start, end, now, Row("came", *now, start, end)});
  }
  const MoveFinder moves(before, after, changes);
  for (Change& here : came) {
    const auto from = std::find_if(went.begin(), went.end(),
                                   [&](const Change& there) { return moves.IsMove(there, here); });
    if (from == went.end()) continue;
    here.row.set_change("moved");
    here.row.set_start_before(from->row.start());
    went.erase(from);
  }
  std::vector<Change> all = std::move(went);
  for (std::vector<Change>* part : {&came, &protection}) {
    all.insert(all.end(), part->begin(), part->end());
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Change& a, const Change& b) { return a.start < b.start; });
  std::vector<pb::DiffMapping> rows;
  for (Change& change : all) rows.push_back(std::move(change.row));
  return rows;
}

}  // namespace incr
