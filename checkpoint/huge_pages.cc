#include "checkpoint/huge_pages.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "process/collapse.h"
#include "process/kernel_abi.h"
#include "process/pagemap_scan.h"

namespace incr {
namespace {

constexpr uint64_t kBlockPages = kHugePageSize / kPageSize;
constexpr int64_t kShareOfOneCpu = 100;

// The whole, aligned blocks within `pages`.
PageSet WholeBlocks(const PageSet& pages) {
  PageSet blocks;
  for (const PageRange& run : pages.runs()) {
    const uint64_t first = (run.first + kBlockPages - 1) / kBlockPages * kBlockPages;
    const uint64_t end = run.end() / kBlockPages * kBlockPages;
    if (end > first) blocks.Add({first, end - first});
  }
  return blocks;
}

absl::StatusOr<PageSet> Find(const PagemapScanner& scanner, const std::vector<PageRange>& ranges,
                             const ScanQuery& query) {
  PageSet found;
  for (const PageRange& range : ranges) {
    INCR_RETURN_IF_ERROR(scanner.Scan(range, query, [&](PageRange run, uint64_t) { found.Add(run); }));
  }
  return found;
}

// Each mapping by itself: a block that reaches over two cannot be huge.
PageSet BlocksOf(const MemoryMap& map) {
  PageSet blocks;
  for (const MemoryMapping& mapping : map) {
    if (ClassifyMapping(mapping) != MappingClass::kPrivateAnonymous) continue;
    PageSet pages;
    pages.Add(mapping.pages());
    blocks.Add(WholeBlocks(pages));
  }
  return blocks;
}

}  // namespace

absl::Status HugePages::Look(const ProcessHandle& target, const MemoryMap& map) {
  const Stopwatch watch;
  INCR_ASSIGN_OR_RETURN(const PagemapScanner scanner, PagemapScanner::Open(target));
  if (!scanner.can_scan()) return absl::OkStatus();
  const PageSet blocks = BlocksOf(map);
  ScanQuery huge;
  huge.all_of = huge.report = PAGE_IS_HUGE;
  INCR_ASSIGN_OR_RETURN(PageSet whole, Find(scanner, blocks.runs(), huge));
  whole = WholeBlocks(whole);

  // What was huge and is not: still all there?
  PageSet parted = seen_.Intersect(blocks);
  parted.Remove(whole);
  ScanQuery populated;
  populated.any_of = populated.report = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  INCR_ASSIGN_OR_RETURN(const PageSet content, Find(scanner, parted.runs(), populated));
  split_ = WholeBlocks(content);
  seen_ = std::move(whole);
  seen_.Add(split_);
  count_.seen = seen_.page_count() / kBlockPages;
  count_.split = split_.page_count() / kBlockPages;
  looked_us_ = MonotonicMicros();
  cost_us_ = watch.elapsed_us();
  return absl::OkStatus();
}

bool HugePages::LookIsCheap() const {
  return MonotonicMicros() - looked_us_ > cost_us_ * kShareOfOneCpu;
}

void HugePages::Mend(const ProcessHandle& target) {
  for (const PageRange& run : split_.runs()) {
    for (uint64_t page = run.first; page < run.end(); page += kBlockPages) {
      const absl::Status status = CollapseHugePage(target, RemoteAddr(page * kPageSize));
      if (status.ok()) ++count_.collapsed;
      if (absl::IsUnimplemented(status) || absl::IsNotFound(status)) return;
    }
  }
}

}  // namespace incr
