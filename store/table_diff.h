// table_diff.h — which pages differ between two page tables of a job.
//
//   both tables         CompareTables
//   one and what followed  CompareWithDelta: the second table is never made
//   neither             CompareByDelta, for an epoch and its parent, where the sizes tell the rest
//
// Results are sorted by space and page. Pure; thread-safe.
#ifndef INCR_CKPT_STORE_TABLE_DIFF_H_
#define INCR_CKPT_STORE_TABLE_DIFF_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "store/page_delta.h"
#include "store/page_table.h"

namespace incr {

enum class PageChangeKind : uint8_t { kChanged, kAdded, kGone };

struct PageChange {
  uint32_t space = 0;
  PageChangeKind kind = PageChangeKind::kChanged;
  uint64_t page = 0;
  bool operator==(const PageChange&) const = default;
};
using PageChanges = std::vector<PageChange>;

PageChanges CompareTables(const PageTable& before, const PageTable& after);

// Against Overlay(before, delta).
PageChanges CompareWithDelta(const PageTable& before, const PageDelta& delta);

// The same without the table: `pages_before` and `pages_after` are its size and that of what the delta makes
// of it. None if they do not tell which written pages are new: some are and some are not.
// REQUIRES: `delta` is as an epoch wrote it: what is written differs, what is gone was there.
std::optional<PageChanges> CompareByDelta(const PageDelta& delta, uint64_t pages_before,
                                          uint64_t pages_after);

// What is seen looking the other way.
PageChanges Reversed(PageChanges changes);

}  // namespace incr

#endif  // INCR_CKPT_STORE_TABLE_DIFF_H_
