// private_scan.h — reads from the page tables which private pages of a process were written, and
// which have content of their own. The knowledge of PAGEMAP_SCAN's categories is here.
//
// Own content: an entry that is neither a page of the file behind the mapping, nor (in anonymous memory) the
// zero page, nor a marker. Only content is ever write-protected: protecting holes costs page tables (32 MiB for a
// reservation of 16 GiB).
//
// What costs, for each page of 4 KiB (measured, 6.18): 2 ns in a scan for PAGE_IS_WRITTEN and nothing
// else, 4 ns in any other, 15 ns if it matches, 100 ns to tell whether it is a file's, since the kernel then
// looks at its struct page. Hence a freeze asks for what changed and what is empty, never for "all
// content"; looks closely only there; and asks for files only where there are files. 1 GiB of
// anonymous memory: 0.5 ms clean; with "all content" 4 ms, with files 25 ms.
//
// Not thread-safe.
#ifndef INCR_CKPT_TRACKER_PRIVATE_SCAN_H_
#define INCR_CKPT_TRACKER_PRIVATE_SCAN_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "base/parallel_for.h"
#include "process/memory_map.h"
#include "process/pagemap_scan.h"
#include "tracker/content_view.h"

namespace incr {

// What differs between kernels. The defaults are right everywhere, if slower.
struct UffdTrackerTraits {
  uint64_t guard_category = 0;   // PAGE_IS_GUARD where PAGEMAP_SCAN knows it (6.15)
  bool markers_visible = false;  // pagemap shows us frame bits (CAP_SYS_ADMIN)
  // PAGE_IS_WRITTEN holds for all that is empty in a registered mapping, whole page tables
  // included. Kernels before 2026's fixes let those out.
  bool written_reports_empty = false;

  // From so many pages on several threads scan, in parts of so many: waking one costs as much as 64 MiB.
  // (Not the kernel's; tests have small ones.)
  uint64_t large_process = 64 * 1024;
  uint64_t part_pages = 16 * 1024;
};

class PrivateScan {
 public:
  // `map` outlives it. Mappings in `except` are not looked at.
  PrivateScan(PagemapScanner scanner, const MemoryMap* map, const UffdTrackerTraits& traits,
              const PageSet& except = PageSet());
  static absl::StatusOr<PrivateScan> Open(const ProcessHandle& process, const MemoryMap& map,
                                          const UffdTrackerTraits& traits,
                                          const PageSet& except = PageSet());

  // Walks the page tables of anonymous memory, and forgets what it sees.
  void WarmUp() const;

  // Has several threads scan, if `populated` is large. Both outlive the scan.
  void Divide(ParallelFor* threads, const PageSet& populated);

  // The mappings of FindUnregistered's content, whole: no more of each is looked at than its first page.
  absl::StatusOr<PageSet> FindUnregisteredMappings() const;

  // Content in private mappings that are registered with no userfaultfd. Before the others, which say
  // kNotFound if the memory is gone: it is not seen here.
  absl::StatusOr<PageSet> FindUnregistered();

  // Content in the private mappings that `pages` lie in, whoever has registered them. Arms nothing.
  absl::StatusOr<PageSet> FindContent(const PageSet& pages) const;

  // What is populated (or a marker) and has its protection bit set, registered or not.
  absl::StatusOr<PageSet> FindProtected(PageRange range) const;

  // Written content in registered mappings. Destructive: re-armed. On an error `written` has
  // what was read so far.
  absl::Status TakeWritten(PageSet* written) const;

  // The same with all content, registered or not. The target is stopped. `markers`: the armed empty
  // entries that dropped pages have left, and what may be such.
  absl::Status TakeWrittenAndContent(PageSet* written, PageSet* content, PageSet* markers) const;

 private:
  // Runs by what is known of them from their categories alone.
  struct Runs {
    PageSet written, clean;
    PageSet written_swapped, clean_swapped;  // perhaps markers
    PageSet empty;
  };
  ScanQuery OwnContent(const ScanSpan& span) const;
  ScanQuery Unregistered(const ScanSpan& span) const;
  absl::Status ScanInto(PageRange range, const ScanQuery& query, Runs* runs) const;
  absl::Status ScanAnonymous(PageRange span, Runs* runs) const;
  absl::StatusOr<PageSet> PlacesToLookAt(PageRange span) const;
  absl::Status Settle(Runs runs, PageSet* written, PageSet* content, PageSet* markers) const;

  absl::Status ForEachPart(absl::FunctionRef<absl::Status(const ScanSpan&, Runs*)> scan,
                           Runs* runs) const;

  PagemapScanner scanner_;
  const MemoryMap* map_;
  ParallelFor* threads_ = nullptr;
  UffdTrackerTraits traits_;
  std::vector<ScanSpan> spans_;  // or parts of them
  PageSet unregistered_;  // anonymous mappings, whole
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_PRIVATE_SCAN_H_
