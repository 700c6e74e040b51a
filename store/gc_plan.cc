#include "store/gc_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace incr {
namespace {

const EpochFacts* Find(const std::vector<EpochFacts>& epochs, uint64_t epoch) {
  const auto found = std::lower_bound(
      epochs.begin(), epochs.end(), epoch,
      [](const EpochFacts& facts, uint64_t number) { return facts.epoch < number; });
  return found != epochs.end() && found->epoch == epoch ? &*found : nullptr;
}

uint64_t NearestKept(const std::vector<EpochFacts>& epochs, const std::set<uint64_t>& kept,
                     uint64_t epoch) {
  while (epoch != 0 && kept.count(epoch) == 0) {
    const EpochFacts* facts = Find(epochs, epoch);
    epoch = facts == nullptr ? 0 : facts->parent;
  }
  return epoch;
}

}  // namespace

absl::StatusOr<std::vector<ChainStep>> PlanChains(const std::vector<EpochFacts>& epochs,
                                                  const std::set<uint64_t>& kept) {
  std::vector<ChainStep> steps;
  for (const uint64_t epoch : kept) {
    const EpochFacts* facts = Find(epochs, epoch);
    if (facts == nullptr) continue;
    ChainStep step{epoch, NearestKept(epochs, kept, facts->parent), {epoch}, false};
    while (facts->depth > 0 && kept.count(facts->parent) == 0) {
      const uint64_t parent = facts->parent;
      facts = Find(epochs, parent);
      if (facts == nullptr) {
        return absl::DataLossError(absl::StrCat("epoch ", epoch, ": its chain is broken: there is no epoch ",
                                                parent));
      }
      step.combine.push_back(parent);
    }
    step.full = facts->depth == 0;
    std::reverse(step.combine.begin(), step.combine.end());
    steps.push_back(std::move(step));
  }
  return steps;
}

std::set<uint64_t> WithChains(const std::vector<EpochFacts>& epochs, std::set<uint64_t> kept) {
  for (auto facts = epochs.rbegin(); facts != epochs.rend(); ++facts) {
    if (facts->depth > 0 && kept.count(facts->epoch) != 0) kept.insert(facts->parent);
  }
  return kept;
}

}  // namespace incr
