#include "tracker/pagemap_content.h"

#include <algorithm>
#include <vector>

#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

constexpr uint64_t kEntriesAtOnce = 64 * 1024;  // 512 KiB for 256 MiB of target
constexpr uint64_t kBridgedPages = 512;         // Reading their entries costs less than a call.

absl::StatusOr<std::vector<PageRange>> PopulatedParts(const PagemapScanner& scanner,
                                                      PageRange range) {
  if (!scanner.can_scan()) return std::vector<PageRange>{range};
  std::vector<PageRange> parts;
  ScanQuery query;
  query.any_of = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  INCR_RETURN_IF_ERROR(scanner.Scan(range, query, [&](PageRange run, uint64_t) {
    if (!parts.empty() && run.first - parts.back().end() < kBridgedPages) {
      parts.back().count = run.end() - parts.back().first;
    } else {
      parts.push_back(run);
    }
  }));
  return parts;
}

}  // namespace

uint64_t PageIdentity(uint64_t entry) {
  if ((entry & kPagemapFrame) == 0) return kUnknownPage;
  return entry & (kPagemapPresent | kPagemapSwapped | kPagemapFrame);
}

absl::Status VisitPrivateContent(const PagemapScanner& scanner, PageRange range,
                                 absl::FunctionRef<void(uint64_t page, uint64_t entry)> visit) {
  INCR_ASSIGN_OR_RETURN(const std::vector<PageRange> parts, PopulatedParts(scanner, range));
  std::vector<uint64_t> entries;
  for (PageRange rest : parts) {
    while (rest.count > 0) {
      const PageRange part{rest.first, std::min(rest.count, kEntriesAtOnce)};
      if (entries.size() < part.count) entries.resize(part.count);
      INCR_RETURN_IF_ERROR(scanner.ReadEntries(part, entries.data()));
      for (uint64_t i = 0; i < part.count; ++i) {
        const uint64_t entry = entries[i];
        if ((entry & (kPagemapPresent | kPagemapSwapped)) == 0) continue;
        if ((entry & (kPagemapFile | kPagemapGuard)) != 0 || IsMarker(entry)) continue;
        visit(part.first + i, entry);
      }
      rest = {part.end(), rest.count - part.count};
    }
  }
  return absl::OkStatus();
}

}  // namespace incr
