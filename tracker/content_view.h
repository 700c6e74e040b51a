// content_view.h — which mappings and pages of a process are the tracker's business.
#ifndef INCR_CKPT_TRACKER_CONTENT_VIEW_H_
#define INCR_CKPT_TRACKER_CONTENT_VIEW_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "process/memory_map.h"
#include "process/pagemap_scan.h"

namespace incr {

// kPrivateAnonymous and kPrivateFile mappings: what page tables can tell about.
bool IsPrivate(const MemoryMapping& mapping);

// Runs of private mappings with none of another class between them; unmapped gaps are included,
// so that few system calls cover a process. Pure.
std::vector<PageRange> PrivateSpans(const MemoryMap& map);

// The same, cut also between file mappings and anonymous ones: whether a page is the file's is
// asked where it can be only, since the kernel must then look at every struct page (34 ms for
// 1 GiB instead of less than 1 ms).
struct ScanSpan {
  PageRange pages;
  bool files = false;
};
// Mappings with a page in `except` are left out, and cut spans.
std::vector<ScanSpan> ScanSpans(const MemoryMap& map, const PageSet& except = PageSet());

// `spans` of `map` cut so that none covers much more than `most` pages of `populated`: parts for several
// threads. What is not populated is walked in no time and does not count. No cut lies in a huge page,
// which a write-protecting scan would split (or, of hugetlbfs, not get past): anonymous memory is cut
// at multiples of 2 MiB, mappings of files (hugetlbfs is one) not at all. Pure.
std::vector<ScanSpan> CutSpans(const std::vector<ScanSpan>& spans, const MemoryMap& map,
                               const PageSet& populated, uint64_t most);

// All mappings. Pure.
PageSet MappedPages(const MemoryMap& map);

// The private file mappings themselves. Pure.
PageSet PrivateFilePages(const MemoryMap& map);

// Takes out of `pages`, which PAGEMAP_SCAN calls swapped, those whose pagemap entry is a marker: an
// entry without content; adds them to `removed`. Returns, and takes out too, those of which the entry does not tell: of
// hugetlbfs it shows neither markers nor pages under migration. Reading such a page settles it.
absl::StatusOr<PageSet> RemoveMarkers(const PagemapScanner& scanner, PageSet* pages,
                                      PageSet* removed);

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_CONTENT_VIEW_H_
