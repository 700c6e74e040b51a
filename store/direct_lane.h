// direct_lane.h — one thread's share of a bulk read: runs of packs on their way from the disk while others are decoded.
//
//   while there is room and work: Start(...); then Wait() for one, decode it, Release(), again
//
// Past the page cache (O_DIRECT): a restore of many gigabytes reads each byte once, and copying through the cache cost six
// times what decoding did. Not thread-safe; `DirectPacks` is.
#ifndef INCR_CKPT_STORE_DIRECT_LANE_H_
#define INCR_CKPT_STORE_DIRECT_LANE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "base/scoped_fd.h"
#include "store/aligned_buffer.h"
#include "store/pack_format.h"
#include "store/pack_reader.h"
#include "store/uring_reader.h"

namespace incr {

// The packs of one bulk read, open for direct reads until it is over.
class DirectPacks {
 public:
  explicit DirectPacks(const PackReader& reader) : reader_(reader) {}
  // -1: not to be had. Valid as long as this lives.
  int Open(uint32_t pack);

 private:
  const PackReader& reader_;
  absl::Mutex mutex_;
  std::map<uint32_t, ScopedFd> open_;
};

class DirectLane {
 public:
  struct Run {
    size_t tag = 0;
    const uint8_t* bytes = nullptr;  // null: it did not come whole; another way may say why
    int slot = 0;
  };

  // Null: no io_uring, or no memory. Runs are of at most `max_bytes`. `packs` outlives it.
  static std::unique_ptr<DirectLane> Create(DirectPacks* packs, size_t max_bytes);

  bool has_room() const { return free_ != 0; }
  bool idle() const { return ring_->in_flight() == 0; }
  // False: this run must be read another way.
  bool Start(uint32_t pack, uint64_t offset, size_t bytes, size_t tag);
  // REQUIRES: !idle()
  Run Wait();
  void Release(const Run& run) { free_ |= 1u << run.slot; }

 private:
  struct Slot {
    size_t tag = 0;
    size_t lead = 0;   // bytes read before what was asked for
    size_t bytes = 0;  // asked for
  };

  DirectLane(DirectPacks* packs, std::unique_ptr<UringReader> ring, size_t slot_bytes)
      : packs_(packs), slot_bytes_(slot_bytes), memory_(UringReader::kDepth * slot_bytes), ring_(std::move(ring)) {}
  uint8_t* BytesOf(int slot) const { return memory_.data() + slot * slot_bytes_; }

  DirectPacks* const packs_;
  const size_t slot_bytes_;
  AlignedBuffer memory_;
  Slot slots_[UringReader::kDepth];
  uint32_t free_ = (1u << UringReader::kDepth) - 1;  // a bit a slot
  const std::unique_ptr<UringReader> ring_;  // last: waits before the memory goes
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_DIRECT_LANE_H_
