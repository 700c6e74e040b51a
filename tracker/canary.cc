#include "tracker/canary.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/status.h"
#include "process/kernel_abi.h"
#include "tracker/pagemap_content.h"

namespace incr {
namespace {

constexpr size_t kWanted = 2;
constexpr size_t kTried = 8;  // The target stands still.

// Its bit set by a write that changes nothing. Through page protection, hence /proc/<pid>/mem.
bool MarkPage(uint64_t page, const RemoteMemory& memory) {
  const RemoteAddr address(page * kPageSize);
  uint8_t byte;
  return memory.Read(address, &byte, 1).ok() && memory.Write(address, &byte, 1).ok();
}

}  // namespace

CanaryVerdict JudgeCanary(uint64_t planted, uint64_t now) {
  // Another page: the program has mapped, moved or, after a fork, written there; or KSM has merged it.
  if (PageIdentity(now) != PageIdentity(planted)) return CanaryVerdict::kUnknown;
  return (now & kPagemapSoftDirty) != 0 ? CanaryVerdict::kAlive : CanaryVerdict::kDead;
}

int CanaryRank(const MemoryMapping& mapping) {
  if ((mapping.prot & PROT_WRITE) == 0) return mapping.is_file() ? 0 : 1;
  return mapping.name == "[stack]" ? 2 : 3;
}

bool FitForCanary(uint64_t entry) {
  return (entry & kPagemapPresent) != 0 && (entry & kPagemapUffdWp) == 0;
}

void Canaries::Plant(std::vector<Candidate> candidates, const PagemapScanner& scanner,
                     const RemoteMemory& memory) {
  planted_.clear();
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });
  if (candidates.size() > kTried) candidates.resize(kTried);
  for (const Candidate& candidate : candidates) {
    if (planted_.size() == kWanted) return;
    uint64_t entry = 0;
    if (!MarkPage(candidate.page, memory)) continue;
    if (!scanner.ReadEntries({candidate.page, 1}, &entry).ok()) continue;
    if (JudgeCanary(entry, entry) == CanaryVerdict::kAlive) planted_.push_back({candidate.page, entry});
  }
}

absl::StatusOr<CanaryVerdict> Canaries::Check(const PagemapScanner& scanner) const {
  CanaryVerdict verdict = CanaryVerdict::kUnknown;
  for (const Planted& planted : planted_) {
    uint64_t entry = 0;
    INCR_RETURN_IF_ERROR(scanner.ReadEntries({planted.page, 1}, &entry));
    const CanaryVerdict one = JudgeCanary(planted.entry, entry);
    if (one == CanaryVerdict::kDead) return one;
    if (one == CanaryVerdict::kAlive) verdict = one;
  }
  return verdict;
}

PageSet Canaries::pages() const {
  PageSet pages;
  for (const Planted& planted : planted_) pages.Add({planted.page, 1});
  return pages;
}

}  // namespace incr
