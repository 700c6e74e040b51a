#include "tracker/content_view.h"

#include <algorithm>

#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

constexpr uint64_t kHugePagePages = 512;

// The first place at or after `page` where a part may end.
uint64_t NextCut(const MemoryMap& map, uint64_t page) {
  page = (page + kHugePagePages - 1) / kHugePagePages * kHugePagePages;
  const auto mapping =
      std::upper_bound(map.begin(), map.end(), page, [](uint64_t at, const MemoryMapping& m) {
        return at < m.pages().end();
      });
  const bool inside = mapping != map.end() && mapping->pages().first < page;
  return inside && mapping->is_file() ? mapping->pages().end() : page;
}

// Where a part that begins at `first` ends. UINT64_MAX: there are not so many pages.
uint64_t CutAfter(const MemoryMap& map, const PageSet& populated, uint64_t first, uint64_t most) {
  auto run = std::upper_bound(
      populated.runs().begin(), populated.runs().end(), first,
      [](uint64_t page, const PageRange& r) { return page < r.end(); });
  for (; run != populated.runs().end(); ++run) {
    const uint64_t begin = std::max(run->first, first);
    if (run->end() - begin > most) return NextCut(map, begin + most);
    most -= run->end() - begin;
  }
  return UINT64_MAX;
}

constexpr uint64_t kEntriesAtOnce = 8192;  // 64 KiB

bool IsPrivateFile(const MemoryMapping& mapping) {
  return ClassifyMapping(mapping) == MappingClass::kPrivateFile;
}

bool Touches(const PageSet& pages, PageRange range) {
  if (pages.empty()) return false;
  PageSet here;
  here.Add(range);
  return !pages.Intersect(here).empty();
}

}  // namespace

bool IsPrivate(const MemoryMapping& mapping) {
  const MappingClass mapping_class = ClassifyMapping(mapping);
  return mapping_class == MappingClass::kPrivateAnonymous ||
         mapping_class == MappingClass::kPrivateFile;
}

std::vector<ScanSpan> ScanSpans(const MemoryMap& map, const PageSet& except) {
  std::vector<ScanSpan> spans;
  bool open = false;
  for (const MemoryMapping& mapping : map) {
    if (!IsPrivate(mapping) || Touches(except, mapping.pages())) {
      open = false;
      continue;
    }
    const PageRange pages = mapping.pages();
    const bool file = IsPrivateFile(mapping);
    if (open && spans.back().files == file) {
      spans.back().pages.count = pages.end() - spans.back().pages.first;
    } else {
      spans.push_back({pages, file});
      open = true;
    }
  }
  return spans;
}

std::vector<PageRange> PrivateSpans(const MemoryMap& map) {
  std::vector<PageRange> spans;
  bool open = false;
  for (const MemoryMapping& mapping : map) {
    if (!IsPrivate(mapping)) {
      open = false;
      continue;
    }
    const PageRange pages = mapping.pages();
    if (open) {
      spans.back().count = pages.end() - spans.back().first;
    } else {
      spans.push_back(pages);
      open = true;
    }
  }
  return spans;
}

std::vector<ScanSpan> CutSpans(const std::vector<ScanSpan>& spans, const MemoryMap& map,
                               const PageSet& populated, uint64_t most) {
  std::vector<ScanSpan> parts;
  for (ScanSpan rest : spans) {
    const uint64_t end = rest.pages.end();
    for (;;) {
      const uint64_t at = CutAfter(map, populated, rest.pages.first, most);
      if (at >= end) break;
      parts.push_back({{rest.pages.first, at - rest.pages.first}, rest.files});
      rest.pages = {at, end - at};
    }
    parts.push_back(rest);
  }
  return parts;
}

PageSet MappedPages(const MemoryMap& map) {
  PageSet pages;
  for (const MemoryMapping& mapping : map) pages.Add(mapping.pages());
  return pages;
}

PageSet PrivateFilePages(const MemoryMap& map) {
  PageSet pages;
  for (const MemoryMapping& mapping : map) {
    if (IsPrivateFile(mapping)) pages.Add(mapping.pages());
  }
  return pages;
}

absl::StatusOr<PageSet> RemoveMarkers(const PagemapScanner& scanner, PageSet* pages,
                                      PageSet* removed) {
  PageSet markers, unclear;
  std::vector<uint64_t> entries;
  for (PageRange run : pages->runs()) {
    while (run.count > 0) {
      const PageRange part{run.first, std::min(run.count, kEntriesAtOnce)};
      entries.resize(part.count);
      INCR_RETURN_IF_ERROR(scanner.ReadEntries(part, entries.data()));
      for (uint64_t i = 0; i < part.count; ++i) {
        if (IsMarker(entries[i])) {
          markers.Add({part.first + i, 1});
        } else if ((entries[i] & (kPagemapPresent | kPagemapSwapped)) == 0) {
          unclear.Add({part.first + i, 1});
        }
      }
      run = {part.end(), run.count - part.count};
    }
  }
  pages->Remove(markers);
  pages->Remove(unclear);
  removed->Add(markers);
  return unclear;
}

}  // namespace incr
