#include "store/id_filter.h"

#include <algorithm>

namespace incr {
namespace {

// Nine bits a probe, out of the bits of an id that choose neither range nor block.
uint64_t ProbeBits(const PageId& id) { return id.high * 0x9e3779b97f4a7c15u ^ id.low >> 32; }

}  // namespace

IdRange PartOfAllIds(uint32_t part, uint32_t parts) {
  const uint64_t step = parts <= 1 ? 0 : UINT64_MAX / parts + 1;
  return {step * part, part + 1 >= parts ? UINT64_MAX : step * (part + 1) - 1};
}

IdFilter::IdFilter(IdRange range, uint64_t expected_ids)
    : range_(range),
      blocks_(std::max<uint64_t>(1024, expected_ids * kBytesPerId / (kBlockWords * 8))),
      words_(blocks_ * kBlockWords) {}

void IdFilter::Insert(const PageId& id) {
  if (!range_.Covers(id)) return;
  std::atomic<uint64_t>* const block = &words_[BlockOf(id)];
  uint64_t bits = ProbeBits(id);
  for (int i = 0; i < kProbes; ++i, bits >>= 9) {
    block[bits >> 6 & 7].fetch_or(uint64_t{1} << (bits & 63), std::memory_order_relaxed);
  }
}

bool IdFilter::MayContain(const PageId& id) const {
  const std::atomic<uint64_t>* const block = &words_[BlockOf(id)];
  uint64_t bits = ProbeBits(id);
  for (int i = 0; i < kProbes; ++i, bits >>= 9) {
    if ((block[bits >> 6 & 7].load(std::memory_order_relaxed) >> (bits & 63) & 1) == 0) return false;
  }
  return true;
}

}  // namespace incr
