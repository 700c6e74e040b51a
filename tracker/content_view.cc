#include "tracker/content_view.h"

#include <algorithm>

#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

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
