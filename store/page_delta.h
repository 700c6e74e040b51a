// page_delta.h — what one epoch, or several in a row, did to a page table:
// first forget `gone`, then lay `written` over it.
//
//   Overlay(Overlay(t, older), newer) == Overlay(t, Combine(older, newer))
//
// Pure; thread-safe.
#ifndef INCR_CKPT_STORE_PAGE_DELTA_H_
#define INCR_CKPT_STORE_PAGE_DELTA_H_

#include <cstdint>
#include <vector>

#include "base/page_range.h"
#include "store/page_table.h"

namespace incr {

struct SpaceRange {
  uint32_t space = 0;
  PageRange range;
  bool operator==(const SpaceRange&) const = default;
};

struct PageDelta {
  PageTable written;
  std::vector<SpaceRange> gone;  // sorted, disjoint; may overlap `written`
  bool operator==(const PageDelta&) const = default;
};

PageTable Overlay(const PageTable& table, const PageDelta& delta);

// The same in place, for the usual small epoch: false, and nothing done, unless every page of
// `written` is in the table and none is gone.
bool OverlayInPlace(PageTable& table, const PageDelta& delta);

PageDelta Combine(const PageDelta& older, const PageDelta& newer);

// The entry of (space, page), or null. `hint`: index to search from, moved to the result;
// ascending look-ups are then nearly free.
const PageTableEntry* FindEntry(const PageTable& table, uint32_t space, uint64_t page,
                                size_t* hint);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_DELTA_H_
