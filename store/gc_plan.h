// gc_plan.h — what becomes of a job's chains of manifests when epochs go.
//
//   before   1F <- 2 <- 3 <- 4 <- 5 <- 6      F: a full table, others: deltas to the one before
//   keep     3, 5, 6
//   after    3F <- 5 <- 6                     3 = 1+2+3 made full, 5 = 4+5 relative to 3
//
// Pure; thread-safe.
#ifndef INCR_CKPT_STORE_GC_PLAN_H_
#define INCR_CKPT_STORE_GC_PLAN_H_

#include <cstdint>
#include <set>
#include <vector>

#include "absl/status/statusor.h"

namespace incr {

struct EpochFacts {
  uint64_t epoch = 0;
  uint64_t parent = 0;  // 0: none; need not exist any more
  uint32_t depth = 0;   // 0: its manifest is a full table
  uint64_t chain_bytes = 0;
  uint64_t manifest_bytes = 0;
  uint64_t image_bytes = 0;
  uint64_t table_pages = 0;
  int64_t time_us = 0;
};

struct ChainStep {
  uint64_t epoch = 0;
  uint64_t parent = 0;  // its nearest ancestor that stays, 0: none
  // Oldest first, the epoch's own last: the manifests that its new one is made of. Just its own: it
  // stays as it is.
  std::vector<uint64_t> combine;
  bool full = false;  // the first of `combine` is a full table, so the result is one
  bool rewritten() const { return combine.size() > 1; }
};

// By epoch, a step for each that stays. `epochs` by number, ascending. kDataLoss names an epoch that a
// kept one needs and that is not there.
absl::StatusOr<std::vector<ChainStep>> PlanChains(const std::vector<EpochFacts>& epochs,
                                                  const std::set<uint64_t>& kept);

// `kept` and everything that their manifests are relative to: with these nothing need be rewritten.
std::set<uint64_t> WithChains(const std::vector<EpochFacts>& epochs, std::set<uint64_t> kept);

}  // namespace incr

#endif  // INCR_CKPT_STORE_GC_PLAN_H_
