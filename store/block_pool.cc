#include "store/block_pool.h"

#include <algorithm>
#include <utility>

namespace incr {
namespace {

// Fresh memory costs a page fault per page: recycle, but do not hold on to a large epoch's all.
constexpr size_t kMaxFree = 64;

}  // namespace

BlockPool::BlockPool(size_t bound_bytes)
    : bound_(std::max<size_t>(1, bound_bytes / (PageBlock::kPages * kPageSize))) {}

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
  if (free_.size() < kMaxFree) free_.push_back(std::move(block));
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
