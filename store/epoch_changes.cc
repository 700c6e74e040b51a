#include "store/epoch_changes.h"

#include <algorithm>

namespace incr {
namespace {

// Appends, joining with a run that touches.
void AppendRun(std::vector<SpaceRange>* runs, uint32_t space, uint64_t page) {
  if (!runs->empty() && runs->back().space == space && runs->back().range.end() == page) {
    ++runs->back().range.count;
  } else {
    runs->push_back({space, {page, 1}});
  }
}

}  // namespace

void GoneRanges::Add(uint32_t space, PageRange range, uint32_t sequence) {
  const std::pair first(space, range.first), last(space, range.end());
  // Cut what overlaps: the new range wins.
  auto next = ranges_.lower_bound(first);
  if (next != ranges_.begin()) {
    auto before = std::prev(next);
    const auto [end, old] = before->second;
    if (before->first.first == space && end > range.first) {
      before->second.first = range.first;
      if (end > range.end()) ranges_[last] = {end, old};
    }
  }
  while (next != ranges_.end() && next->first < last) {
    const auto [end, old] = next->second;
    next = ranges_.erase(next);
    if (end > range.end()) {
      ranges_[last] = {end, old};
      break;
    }
  }
  ranges_[first] = {range.end(), sequence};
}

std::vector<SpaceRange> GoneRanges::Union() const {
  std::vector<SpaceRange> runs;
  for (const auto& [start, end] : ranges_) {
    const auto [space, first] = start;
    if (!runs.empty() && runs.back().space == space && runs.back().range.end() == first) {
      runs.back().range.count += end.first - first;
    } else {
      runs.push_back({space, {first, end.first - first}});
    }
  }
  return runs;
}

bool GoneRanges::Cursor::DroppedAfter(uint32_t space, uint64_t page, uint32_t sequence) {
  while (next_ != end_ && (next_->first.first < space ||
                           (next_->first.first == space && next_->second.first <= page))) {
    ++next_;
  }
  return next_ != end_ && next_->first.first == space && next_->first.second <= page &&
         next_->second.second > sequence;
}

ResolvedEpoch ResolveEpoch(const PageTable& parent, const std::vector<PageResult>& results,
                           const GoneRanges& gone) {
  ResolvedEpoch epoch;
  uint64_t zero = 0, deduplicated = 0, stored = 0, added = 0;
  GoneRanges::Cursor cursor(gone);
  size_t hint = 0;
  PageTable final_writes;
  for (const PageResult& result : results) {
    if (cursor.DroppedAfter(result.space, result.page, result.sequence)) continue;
    switch (static_cast<PageFate>(result.fate)) {
      case PageFate::kZero: ++zero; break;
      case PageFate::kDeduplicated: ++deduplicated; break;
      case PageFate::kStored: ++stored; break;
    }
    const PageTableEntry entry{result.space, result.page, result.id};
    if (!gone.empty()) final_writes.push_back(entry);
    const PageTableEntry* before = FindEntry(parent, entry.space, entry.page, &hint);
    if (before == nullptr) ++added;
    if (before == nullptr || before->id != entry.id) epoch.delta.written.push_back(entry);
  }
  // Of what was dropped, the pages that the parent had and that were not written again. A dropped
  // range may be terabytes of nothing: only these go into the manifest.
  size_t at = 0, written_hint = 0;
  uint64_t gone_pages = 0;
  for (const SpaceRange& run : gone.Union()) {
    FindEntry(parent, run.space, run.range.first, &at);
    for (; at < parent.size() && parent[at].space == run.space &&
           parent[at].page < run.range.end();
         ++at) {
      if (FindEntry(final_writes, run.space, parent[at].page, &written_hint)) continue;
      AppendRun(&epoch.delta.gone, run.space, parent[at].page);
      ++gone_pages;
    }
  }
  epoch.table_pages = parent.size() + added - gone_pages;
  epoch.stats.set_pages_written(zero + deduplicated + stored);
  epoch.stats.set_pages_zero(zero);
  epoch.stats.set_pages_deduplicated(deduplicated);
  epoch.stats.set_pages_stored(stored);
  epoch.stats.set_pages_gone(gone_pages);
  return epoch;
}

}  // namespace incr
