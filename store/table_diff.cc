#include "store/table_diff.h"

#include <algorithm>
#include <utility>

namespace incr {
namespace {

bool Before(const PageTableEntry& a, const PageTableEntry& b) {
  return a.space != b.space ? a.space < b.space : a.page < b.page;
}

bool ByPlace(const PageChange& a, const PageChange& b) {
  return a.space != b.space ? a.space < b.space : a.page < b.page;
}

PageChange Change(const PageTableEntry& entry, PageChangeKind kind) {
  return {entry.space, kind, entry.page};
}

// A writer's delta never has a page on both sides; a delta of several epochs may.
bool Overlaps(const PageDelta& delta) {
  size_t hint = 0;
  for (const SpaceRange& run : delta.gone) {
    FindEntry(delta.written, run.space, run.range.first, &hint);
    if (hint < delta.written.size() && delta.written[hint].space == run.space &&
        delta.written[hint].page < run.range.end()) {
      return true;
    }
  }
  return false;
}

}  // namespace

PageChanges CompareTables(const PageTable& before, const PageTable& after) {
  PageChanges changes;
  auto old = before.begin();
  for (const PageTableEntry& entry : after) {
    for (; old != before.end() && Before(*old, entry); ++old) {
      changes.push_back(Change(*old, PageChangeKind::kGone));
    }
    if (old == before.end() || Before(entry, *old)) {
      changes.push_back(Change(entry, PageChangeKind::kAdded));
      continue;
    }
    if (old->id != entry.id) changes.push_back(Change(entry, PageChangeKind::kChanged));
    ++old;
  }
  for (; old != before.end(); ++old) changes.push_back(Change(*old, PageChangeKind::kGone));
  return changes;
}

PageChanges CompareWithDelta(const PageTable& before, const PageDelta& delta) {
  PageChanges changes;
  size_t hint = 0;
  for (const PageTableEntry& entry : delta.written) {
    const PageTableEntry* old = FindEntry(before, entry.space, entry.page, &hint);
    if (old == nullptr) {
      changes.push_back(Change(entry, PageChangeKind::kAdded));
    } else if (old->id != entry.id) {
      changes.push_back(Change(entry, PageChangeKind::kChanged));
    }
  }
  size_t at = 0, written_hint = 0;
  for (const SpaceRange& run : delta.gone) {
    FindEntry(before, run.space, run.range.first, &at);
    for (; at < before.size() && before[at].space == run.space &&
           before[at].page < run.range.end();
         ++at) {
      if (FindEntry(delta.written, run.space, before[at].page, &written_hint)) continue;
      changes.push_back(Change(before[at], PageChangeKind::kGone));
    }
  }
  std::sort(changes.begin(), changes.end(), ByPlace);
  return changes;
}

std::optional<PageChanges> CompareByDelta(const PageDelta& delta, uint64_t pages_before,
                                          uint64_t pages_after) {
  uint64_t gone = 0;
  for (const SpaceRange& run : delta.gone) gone += run.range.count;
  // More gone than there was: no epoch wrote this.
  if (gone > pages_before || Overlaps(delta)) return std::nullopt;
  const uint64_t added = pages_after - (pages_before - gone);  // Wraps if it is less than none.
  if (added != 0 && added != delta.written.size()) return std::nullopt;
  const PageChangeKind kind = added == 0 ? PageChangeKind::kChanged : PageChangeKind::kAdded;
  PageChanges changes;
  changes.reserve(delta.written.size() + gone);
  for (const PageTableEntry& entry : delta.written) changes.push_back(Change(entry, kind));
  for (const SpaceRange& run : delta.gone) {
    for (uint64_t page = run.range.first; page < run.range.end(); ++page) {
      changes.push_back({run.space, PageChangeKind::kGone, page});
    }
  }
  std::sort(changes.begin(), changes.end(), ByPlace);
  return changes;
}

PageChanges Reversed(PageChanges changes) {
  for (PageChange& change : changes) {
    if (change.kind == PageChangeKind::kAdded) {
      change.kind = PageChangeKind::kGone;
    } else if (change.kind == PageChangeKind::kGone) {
      change.kind = PageChangeKind::kAdded;
    }
  }
  return changes;
}

}  // namespace incr
