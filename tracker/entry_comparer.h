// entry_comparer.h — which private pages were written since the soft-dirty bits were last cleared, from their
// pagemap entries then and now. Pure: no kernel here.
//
// The bit alone will not do. What puts another page in the place of a clean one without a write fault sets
// none: a move of whole page tables, a merge by KSM, memory read again after it was dropped, a new mapping that
// mprotect has merged with an old one (process/soft_dirty.h). So a page is clean only if its bit is clear *and*
// the same frame or swap slot is behind it as when the bits were cleared. A page that was migrated or
// swapped comes once too often; none is missed. (This replaces the rule that a mapping with another layout
// counts as written whole: it sees the same, and a mapping put back in its old place as well; and the arena of
// malloc, which grows by mprotect, costs its new pages only.)
//
// Not thread-safe; 8 bytes a page.
#ifndef INCR_CKPT_TRACKER_ENTRY_COMPARER_H_
#define INCR_CKPT_TRACKER_ENTRY_COMPARER_H_

#include <cstdint>
#include <optional>

#include "base/page_range.h"
#include "tracker/page_values.h"

namespace incr {

class EntryComparer {
 public:
  enum class Backing { kAnonymous, kFile };

  // One pass over the target: Begin, Visit by ascending page each page with content, then the sets are whole.
  void Begin();
  void Visit(uint64_t page, uint64_t entry, Backing backing);
  const PageSet& written() const { return written_; }
  const PageSet& content() const { return content_; }
  // Of written(): whole huge pages in private mappings of files. They are of hugetlbfs, where a write sets
  // no bit, or (before Linux 6.11, and unmarked) the file's own: no entry can say that they are clean.
  const PageSet& untellable() const { return untellable_; }

  // The pass is not to be believed: all its content counts as written.
  void DistrustPass() { written_ = content_; }

  // The bits were cleared after the pass, the target stopped since it began: later passes compare with it.
  void Keep();
  // Nothing is known of the bits: later passes find all content written.
  void Forget() { cleared_ = Identities(); }

 private:
  using Identities = PageValues<uint64_t>;

  void FindHugePage(uint64_t page, uint64_t entry);

  Identities cleared_, current_;
  std::optional<Identities::Cursor> cursor_;
  PageSet written_, content_, untellable_;
  // FindHugePage: the next page and frame of one, as long as it may be one.
  uint64_t huge_page_ = 0, huge_frame_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_ENTRY_COMPARER_H_
