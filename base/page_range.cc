#include "base/page_range.h"

#include <algorithm>
#include <utility>

namespace incr {
namespace {

// Appends to sorted output, joining what touches.
void Append(std::vector<PageRange>& runs, PageRange range) {
  if (range.count == 0) return;
  if (!runs.empty() && range.first <= runs.back().end()) {
    PageRange& last = runs.back();
    last.count = std::max(last.end(), range.end()) - last.first;
  } else {
    runs.push_back(range);
  }
}

// First run that ends after `page`.
std::vector<PageRange>::const_iterator FirstEndingAfter(const std::vector<PageRange>& runs,
                                                        uint64_t page) {
  return std::upper_bound(runs.begin(), runs.end(), page,
                          [](uint64_t p, const PageRange& r) { return p < r.end(); });
}

}  // namespace

void PageSet::Add(PageRange range) {
  if (range.count == 0) return;
  if (runs_.empty() || range.first >= runs_.back().first) {  // In order: no search.
    Append(runs_, range);
    return;
  }
  // First run that ends at or after range.first: it touches, overlaps or follows.
  auto begin = std::lower_bound(runs_.begin(), runs_.end(), range.first,
                                [](const PageRange& r, uint64_t p) { return r.end() < p; });
  auto end = begin;
  uint64_t first = range.first, past = range.end();
  for (; end != runs_.end() && end->first <= range.end(); ++end) {
    first = std::min(first, end->first);
    past = std::max(past, end->end());
  }
  const PageRange merged{first, past - first};
  if (begin == end) {
    runs_.insert(begin, merged);
  } else {
    *begin = merged;
    runs_.erase(begin + 1, end);
  }
}

void PageSet::Add(const PageSet& other) {
  if (other.empty()) return;
  if (runs_.empty() || other.runs_.front().first >= runs_.back().first) {
    // Copied first: `other` may be this set.
    const std::vector<PageRange> added = other.runs_;
    for (PageRange r : added) Append(runs_, r);
    return;
  }
  std::vector<PageRange> merged;
  merged.reserve(runs_.size() + other.runs_.size());
  auto a = runs_.begin();
  auto b = other.runs_.begin();
  while (a != runs_.end() || b != other.runs_.end()) {
    const bool from_a = b == other.runs_.end() || (a != runs_.end() && a->first <= b->first);
    Append(merged, from_a ? *a++ : *b++);
  }
  runs_ = std::move(merged);
}

void PageSet::Remove(PageRange range) {
  if (range.count == 0) return;
  auto begin = runs_.begin() + (FirstEndingAfter(runs_, range.first) - runs_.cbegin());
  auto end = begin;
  PageRange kept[2];
  int kept_count = 0;
  for (; end != runs_.end() && end->first < range.end(); ++end) {
    if (end->first < range.first) kept[kept_count++] = {end->first, range.first - end->first};
    if (end->end() > range.end()) kept[kept_count++] = {range.end(), end->end() - range.end()};
  }
  if (begin == end) return;
  const auto at = begin - runs_.begin();
  runs_.erase(begin, end);
  runs_.insert(runs_.begin() + at, kept, kept + kept_count);
}

void PageSet::Remove(const PageSet& other) {
  if (runs_.empty() || other.empty()) return;
  std::vector<PageRange> left;
  left.reserve(runs_.size());
  auto cut = FirstEndingAfter(other.runs_, runs_.front().first);
  for (PageRange run : runs_) {
    uint64_t at = run.first;
    while (cut != other.runs_.end() && cut->end() <= at) ++cut;
    for (auto c = cut; c != other.runs_.end() && c->first < run.end(); ++c) {
      if (c->first > at) left.push_back({at, c->first - at});
      at = c->end();
      if (c->end() <= run.end()) cut = c + 1;  // Done with; a longer one cuts the next run too.
    }
    if (at < run.end()) left.push_back({at, run.end() - at});
  }
  runs_ = std::move(left);
}

PageSet PageSet::Intersect(const PageSet& other) const {
  PageSet result;
  if (runs_.empty() || other.empty()) return result;
  // A small set against a large one skips by search instead of walking.
  const bool this_smaller = runs_.size() <= other.runs_.size();
  const std::vector<PageRange>& few = this_smaller ? runs_ : other.runs_;
  const std::vector<PageRange>& many = this_smaller ? other.runs_ : runs_;
  for (PageRange f : few) {
    for (auto m = FirstEndingAfter(many, f.first); m != many.end() && m->first < f.end(); ++m) {
      const uint64_t first = std::max(f.first, m->first);
      Append(result.runs_, {first, std::min(f.end(), m->end()) - first});
    }
  }
  return result;
}

bool PageSet::Contains(uint64_t page) const {
  auto run = FirstEndingAfter(runs_, page);
  return run != runs_.end() && run->first <= page;
}

uint64_t PageSet::page_count() const {
  uint64_t total = 0;
  for (PageRange r : runs_) total += r.count;
  return total;
}

}  // namespace incr
