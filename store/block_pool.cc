#include "store/block_pool.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "store/page_id.h"

namespace incr {
namespace {

// Blocks of 256 KiB.
constexpr size_t kAhead = 4, kAheadOfEach = 4;

}  // namespace

BlockPool::BlockPool(size_t bound_bytes, int workers)
    : bound_(std::clamp<size_t>(bound_bytes / (PageBlock::kPages * kPageSize), 1, kAhead + kAheadOfEach * workers)) {}

std::unique_ptr<PageBlock> BlockPool::Take() {
  {
    absl::MutexLock lock(&mutex_);
    if (!free_.empty()) {
      std::unique_ptr<PageBlock> block = std::move(free_.back());
      free_.pop_back();
      return block;
    }
  }
  return std::unique_ptr<PageBlock>(new PageBlock);  // Not make_unique: no zeroing.
}

void BlockPool::Give(std::unique_ptr<PageBlock> block) {
  block->count = 0;
  absl::MutexLock lock(&mutex_);
  // Fresh memory costs a page fault per page: recycle.
  if (free_.size() < bound_) free_.push_back(std::move(block));
}

void AddToBlock(PageBlock* block, uint32_t space, PageRange range, const uint8_t* bytes) {
  for (uint64_t i = 0; i < range.count; ++i, bytes += kPageSize) {
    const bool zero = PageHasher::IsZeroPage(bytes);
    if (!zero) std::memcpy(block->bytes + block->count * kPageSize, bytes, kPageSize);
    block->keys[block->count++] = {space, range.first + i, zero};
  }
}

void BlockPool::Enter() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](BlockPool* pool) { return pool->on_the_way_ < pool->bound_; }, this));
  ++on_the_way_;
}

void BlockPool::Leave() {
  absl::MutexLock lock(&mutex_);
  --on_the_way_;
}

}  // namespace incr
