// page_result.h — what became of one page given to an epoch.
// Pure; thread-safe.
#ifndef INCR_CKPT_STORE_PAGE_RESULT_H_
#define INCR_CKPT_STORE_PAGE_RESULT_H_

#include <cstdint>
#include <vector>

#include "store/page_id.h"

namespace incr {

enum class PageFate : uint8_t { kZero, kDeduplicated, kStored };

struct PageResult {
  uint32_t space = 0;
  uint32_t sequence = 0;  // of the block it came in
  uint64_t page : 56;
  uint64_t fate : 8;  // PageFate
  PageId id;
};
static_assert(sizeof(PageResult) == 32);

// Sorts by place and keeps the last write of every page. Those of one block must be in the order
// in which they were given.
void KeepLastWrites(std::vector<PageResult>* results);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_RESULT_H_
