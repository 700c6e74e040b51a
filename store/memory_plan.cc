#include "store/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "store/uring_writer.h"

namespace incr {
namespace {

constexpr uint64_t kPackBuffers = 2 * UringWriter::kBuffers * UringWriter::kBufferBytes;
constexpr uint64_t kIdSlotBytes = 17;  // flat_hash_set<PageId>: the id and a control byte

}  // namespace

size_t KnownPagesWithin(uint64_t bytes) {
  uint64_t slots = 16;
  while (kIdSlotBytes * (2 * slots + slots) <= bytes) slots *= 2;
  return slots / 8 * 7;  // fuller than that, it doubles
}

absl::StatusOr<MemoryPlan> PlanMemory(uint64_t limit_bytes) {
  if (limit_bytes < kLeastMemoryLimit) {
    return absl::InvalidArgumentError(absl::StrCat("a memory limit of ", limit_bytes,
                                                   " bytes is too little: at least ",
                                                   kLeastMemoryLimit >> 20, " MiB"));
  }
  const uint64_t rest = limit_bytes - kPackBuffers;
  MemoryPlan plan;
  plan.buffer_bytes = std::min<uint64_t>(rest / 4, 64u << 20);
  plan.write_buffer_bytes = std::clamp<uint64_t>(rest / 8, 4u << 20, 32u << 20);
  plan.cache_bytes = rest / 4;
  plan.max_known_pages =
      KnownPagesWithin(rest - plan.buffer_bytes - plan.write_buffer_bytes - plan.cache_bytes);
  return plan;
}

}  // namespace incr
