#include "store/direct_lane.h"

#include <bit>
#include <utility>

#include "base/status.h"

namespace incr {
namespace {

constexpr size_t kMostPacks = 256;  // Further ones are read through PackReader, which keeps as many.

}  // namespace

int DirectPacks::Open(uint32_t pack) {
  absl::MutexLock lock(&mutex_);
  if (open_.size() >= kMostPacks && open_.count(pack) == 0) return -1;
  const auto [entry, fresh] = open_.try_emplace(pack);
  if (fresh) {
    absl::StatusOr<ScopedFd> fd = reader_.OpenDirect(pack);
    if (fd.ok()) entry->second = *std::move(fd);
  }
  return entry->second.get();
}

std::unique_ptr<DirectLane> DirectLane::Create(DirectPacks* packs, size_t max_bytes) {
  std::unique_ptr<UringReader> ring = UringReader::Create();
  if (ring == nullptr) return nullptr;
  // Both ends of a run lie within a block.
  const size_t slot_bytes = (max_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes + 2 * kBlockBytes;
  std::unique_ptr<DirectLane> lane(new DirectLane(packs, std::move(ring), slot_bytes));
  if (lane->memory_.data() == nullptr) return nullptr;
  return lane;
}

bool DirectLane::Start(uint32_t pack, uint64_t offset, size_t bytes, size_t tag) {
  const uint64_t first = offset / kBlockBytes * kBlockBytes;
  const uint64_t end = (offset + bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  const int fd = packs_->Open(pack);
  if (fd < 0 || free_ == 0 || end - first > slot_bytes_) return false;
  const int slot = std::countr_zero(free_);
  if (!ring_->Start(fd, BytesOf(slot), end - first, first, slot)) return false;
  slots_[slot] = {tag, static_cast<size_t>(offset - first), bytes};
  free_ &= ~(1u << slot);
  return true;
}

DirectLane::Run DirectLane::Wait() {
  const UringReader::Done done = ring_->Wait();
  const int slot = static_cast<int>(done.tag);
  const Slot& at = slots_[slot];
  const bool whole = done.result >= 0 && static_cast<size_t>(done.result) >= at.lead + at.bytes;
  return {at.tag, whole ? BytesOf(slot) + at.lead : nullptr, slot};
}

}  // namespace incr
