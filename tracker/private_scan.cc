#include "tracker/private_scan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

constexpr uint64_t kPopulated = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
constexpr uint64_t kBridgedPages = 256;  // Looking at them costs less than another system call.

// `pages` in few runs: smaller gaps are filled.
std::vector<PageRange> Coalesce(const PageSet& pages) {
  std::vector<PageRange> coarse;
  for (PageRange run : pages.runs()) {
    if (!coarse.empty() && run.first - coarse.back().end() < kBridgedPages) {
      coarse.back().count = run.end() - coarse.back().first;
    } else {
      coarse.push_back(run);
    }
  }
  return coarse;
}

// The first mapping that ends above `page`.
MemoryMap::const_iterator FirstAt(const MemoryMap& map, uint64_t page) {
  return std::lower_bound(
      map.begin(), map.end(), page,
      [](const MemoryMapping& mapping, uint64_t p) { return mapping.pages().end() <= p; });
}

const MemoryMapping* MappingAt(const MemoryMap& map, uint64_t page) {
  const auto it = FirstAt(map, page);
  return it != map.end() && it->pages().first <= page ? &*it : nullptr;
}

// The mapped pages of `map` in `span`.
PageSet MappedIn(const MemoryMap& map, PageRange span) {
  PageSet mapped;
  for (auto it = FirstAt(map, span.first); it != map.end() && it->pages().first < span.end(); ++it) {
    const uint64_t begin = std::max(it->pages().first, span.first);
    mapped.Add({begin, std::min(it->pages().end(), span.end()) - begin});
  }
  return mapped;
}

}  // namespace

PrivateScan::PrivateScan(PagemapScanner scanner, const MemoryMap* map,
                         const UffdTrackerTraits& traits, const PageSet& except)
    : scanner_(std::move(scanner)), map_(map), traits_(traits), spans_(ScanSpans(*map, except)) {}

absl::StatusOr<PrivateScan> PrivateScan::Open(const ProcessHandle& process, const MemoryMap& map,
                                              const UffdTrackerTraits& traits,
                                              const PageSet& except) {
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(process));
  return PrivateScan(std::move(scanner), &map, traits, except);
}

ScanQuery PrivateScan::OwnContent(const ScanSpan& span) const {
  ScanQuery query;
  // Over a file the zero page is content: KSM puts it (use_zero_pages) where a copy of zeros was.
  query.inverted = traits_.guard_category | (span.files ? PAGE_IS_FILE : PAGE_IS_PFNZERO);
  query.all_of = query.inverted;
  query.any_of = kPopulated;
  query.report = kPopulated | PAGE_IS_WRITTEN;
  return query;
}

absl::Status PrivateScan::ScanInto(PageRange range, const ScanQuery& query, Runs* runs) const {
  return scanner_.ScanUnchecked(range, query, [&](PageRange found, uint64_t categories) {
    const bool written = categories & PAGE_IS_WRITTEN;
    if (categories & (PAGE_IS_PFNZERO | traits_.guard_category)) {
      runs->empty.Add(found);
    } else if (categories & PAGE_IS_SWAPPED) {
      (written ? runs->written_swapped : runs->clean_swapped).Add(found);
    } else if (categories & PAGE_IS_PRESENT) {
      (written ? runs->written : runs->clean).Add(found);
    } else {
      runs->empty.Add(found);
    }
  });
}

ScanQuery PrivateScan::Unregistered(const ScanSpan& span) const {
  ScanQuery query;
  if (span.files) {
    query = OwnContent(span);
  } else {
    query.report = kPopulated | PAGE_IS_PFNZERO | traits_.guard_category;
  }
  query.inverted |= PAGE_IS_WPALLOWED;
  query.all_of |= PAGE_IS_WPALLOWED;
  query.report &= ~uint64_t{PAGE_IS_WRITTEN};  // Means nothing there.
  return query;
}

absl::StatusOr<PageSet> PrivateScan::FindUnregisteredMappings() const {
  PageSet mappings;
  for (const ScanSpan& span : spans_) {
    ScanQuery query = Unregistered(span);
    query.any_of = kPopulated;
    query.first_only = true;
    for (PageRange rest = span.pages; rest.count > 0;) {
      std::optional<uint64_t> first;
      INCR_RETURN_IF_ERROR(scanner_.ScanUnchecked(
          rest, query, [&](PageRange found, uint64_t) { first = found.first; }));
      if (!first) break;
      const MemoryMapping* mapping = MappingAt(*map_, *first);
      if (mapping != nullptr) mappings.Add(mapping->pages());
      const uint64_t next = mapping == nullptr ? *first + 1 : mapping->pages().end();
      rest = {next, span.pages.end() - std::min(next, span.pages.end())};
    }
  }
  INCR_RETURN_IF_ERROR(scanner_.CheckAlive());
  return mappings;
}

absl::StatusOr<PageSet> PrivateScan::FindUnregistered() {
  Runs runs;
  for (const ScanSpan& span : spans_) {
    Runs found;
    INCR_RETURN_IF_ERROR(ScanInto(span.pages, Unregistered(span), &found));
    runs.clean.Add(found.clean);
    runs.clean_swapped.Add(found.clean_swapped);
    if (span.files) continue;
    unregistered_.Add(found.clean);
    unregistered_.Add(found.clean_swapped);
    unregistered_.Add(found.empty);
  }
  PageSet written, content, markers;
  INCR_RETURN_IF_ERROR(Settle(std::move(runs), &written, &content, &markers));
  return content;
}

absl::StatusOr<PageSet> PrivateScan::FindContent(const PageSet& pages) const {
  PageSet content, swapped;
  for (const MemoryMapping& mapping : *map_) {
    PageSet here;
    here.Add(mapping.pages());
    if (!IsPrivate(mapping) || pages.Intersect(here).empty()) continue;
    ScanQuery query = OwnContent({mapping.pages(), mapping.is_file()});
    query.report = kPopulated;
    INCR_RETURN_IF_ERROR(scanner_.ScanUnchecked(mapping.pages(), query, [&](PageRange run, uint64_t is) {
      (is & PAGE_IS_SWAPPED ? swapped : content).Add(run);
    }));
  }
  // Also in anonymous memory: there may be markers of the one who has it.
  if (traits_.markers_visible) {
    PageSet theirs;
    INCR_ASSIGN_OR_RETURN(const PageSet unclear, RemoveMarkers(scanner_, &swapped, &theirs));
    content.Add(unclear);
  }
  content.Add(swapped);
  INCR_RETURN_IF_ERROR(scanner_.CheckAlive());
  return content;
}

absl::StatusOr<PageSet> PrivateScan::FindProtected(PageRange range) const {
  ScanQuery query;
  query.inverted = PAGE_IS_WRITTEN;
  query.all_of = PAGE_IS_WRITTEN;
  query.any_of = kPopulated;
  query.report = kPopulated;
  PageSet found;
  INCR_RETURN_IF_ERROR(
      scanner_.ScanUnchecked(range, query, [&](PageRange run, uint64_t) { found.Add(run); }));
  return found;
}

absl::Status PrivateScan::TakeWritten(PageSet* written) const {
  Runs runs;
  absl::Status status = ForEachPart(
      [this](const ScanSpan& span, Runs* found) {
        ScanQuery query = OwnContent(span);
        query.all_of |= PAGE_IS_WRITTEN;
        query.write_protect = true;
        return ScanInto(span.pages, query, found);
      },
      &runs);
  status.Update(scanner_.CheckAlive());
  PageSet content, markers;
  const absl::Status settled = Settle(std::move(runs), written, &content, &markers);
  return status.ok() ? settled : status;
}

absl::Status PrivateScan::TakeWrittenAndContent(PageSet* written, PageSet* content,
                                                PageSet* markers) const {
  Runs runs;
  absl::Status status = ForEachPart(
      [this](const ScanSpan& span, Runs* found) {
        if (!span.files) return ScanAnonymous(span.pages, found);
        ScanQuery query = OwnContent(span);
        query.write_protect = true;
        return ScanInto(span.pages, query, found);
      },
      &runs);
  status.Update(scanner_.CheckAlive());
  const absl::Status settled = Settle(std::move(runs), written, content, markers);
  return status.ok() ? settled : status;
}

void PrivateScan::WarmUp() const {
  for (const ScanSpan& span : spans_) {
    if (!span.files) (void)PlacesToLookAt(span.pages);
  }
}

void PrivateScan::Divide(ParallelFor* threads, const PageSet& populated) {
  if (populated.page_count() < traits_.large_process) return;
  threads_ = threads;
  spans_ = CutSpans(spans_, *map_, populated, traits_.part_pages);
}

// Destructive: what was read before an error, or beside it, is in `runs` too.
absl::Status PrivateScan::ForEachPart(
    absl::FunctionRef<absl::Status(const ScanSpan&, Runs*)> scan, Runs* runs) const {
  absl::Status status;
  if (threads_ == nullptr) {
    for (const ScanSpan& span : spans_) {
      status = scan(span, runs);
      if (!status.ok()) break;
    }
    return status;
  }
  std::vector<Runs> found(spans_.size());
  std::vector<absl::Status> statuses(spans_.size());
  threads_->Run(spans_.size(), [&](size_t i) { statuses[i] = scan(spans_[i], &found[i]); });
  for (size_t i = 0; i < spans_.size(); ++i) {
    runs->written.Add(found[i].written);
    runs->clean.Add(found[i].clean);
    runs->written_swapped.Add(found[i].written_swapped);
    runs->clean_swapped.Add(found[i].clean_swapped);
    runs->empty.Add(found[i].empty);
    status.Update(statuses[i]);
  }
  return status;
}

// Where something may have been written or be empty. Elsewhere in `span` all is armed content.
absl::StatusOr<PageSet> PrivateScan::PlacesToLookAt(PageRange span) const {
  PageSet places;
  if (!traits_.written_reports_empty || traits_.guard_category == 0) {
    places.Add(span);
    return places;
  }
  ScanQuery query;
  query.all_of = PAGE_IS_WRITTEN;
  query.report = PAGE_IS_WRITTEN;
  INCR_RETURN_IF_ERROR(scanner_.ScanUnchecked(span, query, [&](PageRange r, uint64_t) { places.Add(r); }));
  PageSet here;
  here.Add(span);
  places.Add(unregistered_.Intersect(here));
  return places;
}

absl::Status PrivateScan::ScanAnonymous(PageRange span, Runs* runs) const {
  INCR_ASSIGN_OR_RETURN(PageSet places, PlacesToLookAt(span));
  ScanQuery query;  // Not present, or the zero page, or written.
  query.inverted = PAGE_IS_PRESENT;
  query.any_of = PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_WRITTEN;
  query.report = kPopulated | PAGE_IS_PFNZERO | PAGE_IS_WRITTEN | traits_.guard_category;
  Runs found;
  for (PageRange place : Coalesce(places)) {
    INCR_RETURN_IF_ERROR(ScanInto(place, query, &found));
  }
  // The target is stopped: what that scan saw, this one arms. What is not registered it passes
  // over.
  PageSet to_arm = found.written;
  to_arm.Add(found.written_swapped);
  ScanQuery arm = OwnContent({span, false});
  arm.all_of |= PAGE_IS_WRITTEN;
  arm.write_protect = true;
  absl::Status status;
  for (PageRange run : Coalesce(to_arm)) {
    // Between the two scans others may have written: what is armed is written.
    status = scanner_.ScanUnchecked(run, arm, [&](PageRange armed, uint64_t) { found.written.Add(armed); });
    if (!status.ok()) break;
  }
  PageSet clean = MappedIn(*map_, span);
  for (const PageSet* other :
       {&found.empty, &found.written, &found.written_swapped, &found.clean_swapped}) {
    clean.Remove(*other);
  }
  runs->clean.Add(clean);
  runs->written.Add(found.written);
  runs->written_swapped.Add(found.written_swapped);
  runs->clean_swapped.Add(found.clean_swapped);
  return status;
}

absl::Status PrivateScan::Settle(Runs runs, PageSet* written, PageSet* content,
                                 PageSet* markers) const {
  absl::Status status;
  // Armed markers look like clean swapped pages. In anonymous memory only guards leave them, so
  // where a category tells guards, the perhaps millions of swapped pages there need no look.
  PageSet doubtful = std::move(runs.clean_swapped);
  if (traits_.guard_category != 0 && !doubtful.empty()) {
    PageSet of_files = doubtful.Intersect(PrivateFilePages(*map_));
    doubtful.Remove(of_files);
    content->Add(doubtful);
    doubtful = std::move(of_files);
  }
  if (traits_.markers_visible) {
    // Neither known to be empty nor to be clean: the caller reads it.
    for (PageSet* pages : {&runs.written_swapped, &doubtful}) {
      auto unclear = RemoveMarkers(scanner_, pages, markers);
      if (unclear.ok()) {
        runs.written.Add(*unclear);
      } else if (status.ok()) {
        status = unclear.status();
      }
    }
  } else {
    written->Add(doubtful);  // Cannot tell: the caller reads it.
    markers->Add(doubtful);
  }
  written->Add(runs.written);
  written->Add(runs.written_swapped);
  content->Add(doubtful);
  content->Add(runs.clean);
  content->Add(runs.written);
  content->Add(runs.written_swapped);
  return status;
}

}  // namespace incr
