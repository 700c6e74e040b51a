// block_pool.h — pages on their way from AddPages to a worker, in blocks of 64, and the
// bound on how many are on the way.
//
// Only submitted blocks count against the bound, so writers that each hold a half-filled block
// can never wait for each other. Thread-safe.
#ifndef INCR_CKPT_STORE_BLOCK_POOL_H_
#define INCR_CKPT_STORE_BLOCK_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/page_range.h"

namespace incr {

struct PageBlock {
  static constexpr size_t kPages = 64;
  struct Key {
    uint32_t space;
    uint64_t page : 63;
    uint64_t zero : 1;  // a page of zeros: its bytes here are anything
  };
  uint32_t sequence = 0;  // order of submission: the last write of a page wins
  size_t count = 0;
  Key keys[kPages];
  alignas(64) uint8_t bytes[kPages * kPageSize];
};

// Copies pages in; there is room for them. Most pages are no zero pages and show it in their first bytes; those that are
// need not be copied, nor looked at again.
void AddToBlock(PageBlock* block, uint32_t space, PageRange range, const uint8_t* bytes);

class BlockPool {
 public:
  // At most `bound_bytes`, and no more than keeps so many workers busy: what is far ahead of them has left the CPU's cache
  // when they come to it (64 MiB ahead, an epoch cost a third more CPU than 4 MiB ahead).
  BlockPool(size_t bound_bytes, int workers);

  std::unique_ptr<PageBlock> Take();
  void Give(std::unique_ptr<PageBlock> block);

  // Waits until another block may be on its way. Leave() when it is done.
  void Enter();
  void Leave();

 private:
  const size_t bound_;  // blocks
  absl::Mutex mutex_;
  size_t on_the_way_ = 0;
  std::vector<std::unique_ptr<PageBlock>> free_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_BLOCK_POOL_H_
