// memory_plan.h — one budget for what a store's writer keeps in memory between and during epochs: pages on their
// way to the packs, ids that may be deduplicated against, RocksDB's blocks and unflushed writes.
//
//   limit ─┬─ pack buffers, 8 MiB a writer, two of them
//          └─ rest ─┬─ 1/4 page buffers (at most 64 MiB)
//                   ├─ 1/8 RocksDB's unflushed writes (4 to 32 MiB)
//                   ├─ 1/4 RocksDB's blocks, indexes and Bloom filters, and they only
//                   └─ what is left: known ids
//
// Not in it: the page tables of the jobs being tracked, 32 bytes a page (an epoch is resolved against its parent's), and
// 8 MiB for each further job that writes at the same time.
// Pure.
#ifndef INCR_CKPT_STORE_MEMORY_PLAN_H_
#define INCR_CKPT_STORE_MEMORY_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace incr {

inline constexpr uint64_t kLeastMemoryLimit = 64u << 20;

struct MemoryPlan {
  size_t buffer_bytes = 0;
  size_t max_known_pages = 0;
  size_t cache_bytes = 0;
  size_t write_buffer_bytes = 0;
};

// kInvalidArgument below kLeastMemoryLimit.
absl::StatusOr<MemoryPlan> PlanMemory(uint64_t limit_bytes);

// So many ids fit into `bytes`, even while the set grows: it doubles, and holds both sizes meanwhile.
size_t KnownPagesWithin(uint64_t bytes);

}  // namespace incr

#endif  // INCR_CKPT_STORE_MEMORY_PLAN_H_
