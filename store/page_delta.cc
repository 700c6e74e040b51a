#include "store/page_delta.h"

#include <algorithm>
#include <utility>

namespace incr {
namespace {

bool Before(const PageTableEntry& a, const PageTableEntry& b) {
  return a.space != b.space ? a.space < b.space : a.page < b.page;
}

// Walks sorted pages beside sorted gone ranges.
class GoneCursor {
 public:
  explicit GoneCursor(const std::vector<SpaceRange>& gone) : next_(gone.begin()), end_(gone.end()) {}
  bool Covers(const PageTableEntry& entry) {
    while (next_ != end_ && (next_->space < entry.space || (next_->space == entry.space &&
                                                            next_->range.end() <= entry.page))) {
      ++next_;
    }
    return next_ != end_ && next_->space == entry.space && next_->range.first <= entry.page;
  }

 private:
  std::vector<SpaceRange>::const_iterator next_, end_;
};

}  // namespace

PageTable Overlay(const PageTable& table, const PageDelta& delta) {
  PageTable result;
  result.reserve(table.size() + delta.written.size());
  GoneCursor gone(delta.gone);
  auto next = delta.written.begin();
  for (const PageTableEntry& entry : table) {
    while (next != delta.written.end() && Before(*next, entry)) result.push_back(*next++);
    const bool replaced = next != delta.written.end() && !Before(entry, *next);
    if (!replaced && !gone.Covers(entry)) result.push_back(entry);
  }
  result.insert(result.end(), next, delta.written.end());
  return result;
}

bool OverlayInPlace(PageTable& table, const PageDelta& delta) {
  if (!delta.gone.empty() || delta.written.size() > table.size() / 4) return false;
  std::vector<size_t> where(delta.written.size());
  size_t hint = 0;
  for (size_t i = 0; i < where.size(); ++i) {
    const PageTableEntry& entry = delta.written[i];
    if (FindEntry(table, entry.space, entry.page, &hint) == nullptr) return false;
    where[i] = hint;
  }
  for (size_t i = 0; i < where.size(); ++i) table[where[i]].id = delta.written[i].id;
  return true;
}

PageDelta Combine(const PageDelta& older, const PageDelta& newer) {
  PageDelta result;
  result.written = Overlay(older.written, newer);
  std::vector<SpaceRange> all(older.gone.size() + newer.gone.size());
  std::merge(older.gone.begin(), older.gone.end(), newer.gone.begin(), newer.gone.end(),
             all.begin(), [](const SpaceRange& a, const SpaceRange& b) {
               return a.space != b.space ? a.space < b.space : a.range.first < b.range.first;
             });
  for (const SpaceRange& next : all) {
    if (!result.gone.empty() && result.gone.back().space == next.space &&
        next.range.first <= result.gone.back().range.end()) {
      PageRange& last = result.gone.back().range;
      last.count = std::max(last.end(), next.range.end()) - last.first;
    } else {
      result.gone.push_back(next);
    }
  }
  return result;
}

const PageTableEntry* FindEntry(const PageTable& table, uint32_t space, uint64_t page,
                                size_t* hint) {
  const PageTableEntry wanted{space, page, {}};
  size_t low = std::min(*hint, table.size());
  if (low > 0 && !Before(table[low - 1], wanted)) low = 0;
  size_t step = 1;
  while (low + step < table.size() && Before(table[low + step], wanted)) step *= 2;
  const auto found = std::lower_bound(table.begin() + low + step / 2,
                                      table.begin() + std::min(low + step + 1, table.size()),
                                      wanted, Before);
  *hint = found - table.begin();
  if (found == table.end() || found->space != space || found->page != page) return nullptr;
  return &*found;
}

}  // namespace incr
