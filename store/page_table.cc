#include "store/page_table.h"

#include <algorithm>

namespace incr {

PageSet PagesOfSpace(const PageTable& table, uint32_t space) {
  PageSet pages;
  auto entry = std::lower_bound(table.begin(), table.end(), space,
                                [](const PageTableEntry& e, uint32_t s) { return e.space < s; });
  while (entry != table.end() && entry->space == space) {
    PageRange run{entry->page, 0};
    while (entry != table.end() && entry->space == space && entry->page == run.end()) {
      ++run.count;
      ++entry;
    }
    pages.Add(run);
  }
  return pages;
}

}  // namespace incr
