#include "store/page_result.h"

#include <algorithm>

namespace incr {
namespace {

bool InOrder(const PageResult& a, const PageResult& b) {
  if (a.space != b.space) return a.space < b.space;
  if (a.page != b.page) return a.page < b.page;
  return a.sequence < b.sequence;
}

bool SamePlace(const PageResult& a, const PageResult& b) {
  return a.space == b.space && a.page == b.page;
}

}  // namespace

void KeepLastWrites(std::vector<PageResult>* results) {
  if (!std::is_sorted(results->begin(), results->end(), InOrder)) {
    // Equal sequences are one block, whose results are in order of writing.
    std::stable_sort(results->begin(), results->end(), InOrder);
  }
  size_t kept = 0;
  for (size_t i = 0; i < results->size(); ++i) {
    const bool last = i + 1 == results->size() || !SamePlace((*results)[i], (*results)[i + 1]);
    if (last) (*results)[kept++] = (*results)[i];
  }
  results->resize(kept);
}

}  // namespace incr
