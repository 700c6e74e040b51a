// page_table.h — which page id every page of an image has: (space, page number) -> id.
//
// A space is one address space (Process.space; 0 for the first). A page that is
// not in the table has its mapping's background content (zero, or the file's).
#ifndef INCR_CKPT_STORE_PAGE_TABLE_H_
#define INCR_CKPT_STORE_PAGE_TABLE_H_

#include <cstdint>
#include <vector>

#include "base/page_range.h"
#include "store/page_id.h"

namespace incr {

struct PageTableEntry {
  uint32_t space = 0;
  uint64_t page = 0;
  PageId id;
  bool operator==(const PageTableEntry&) const = default;
};

// Sorted by (space, page), no duplicates.
using PageTable = std::vector<PageTableEntry>;

// The pages of one space in `table`.
PageSet PagesOfSpace(const PageTable& table, uint32_t space);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_TABLE_H_
