// epoch_changes.h — the calls of one epoch, resolved: of all writes and drops of a page the
// last one counts.
// Not thread-safe.
#ifndef INCR_CKPT_STORE_EPOCH_CHANGES_H_
#define INCR_CKPT_STORE_EPOCH_CHANGES_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "base/page_range.h"
#include "proto/epoch.pb.h"
#include "store/page_delta.h"
#include "store/page_result.h"

namespace incr {

// Ranges of pages and when each was last dropped.
class GoneRanges {
 public:
  // `sequence` never decreases from call to call.
  void Add(uint32_t space, PageRange range, uint32_t sequence);
  bool empty() const { return ranges_.empty(); }
  // Sorted, disjoint, touching ones joined.
  std::vector<SpaceRange> Union() const;

  // Whether a write of `sequence` was dropped later. Ascending pages are nearly free.
  class Cursor {
   public:
    explicit Cursor(const GoneRanges& gone) : next_(gone.ranges_.begin()), end_(gone.ranges_.end()) {}
    bool DroppedAfter(uint32_t space, uint64_t page, uint32_t sequence);

   private:
    using Iterator = std::map<std::pair<uint32_t, uint64_t>,
                              std::pair<uint64_t, uint32_t>>::const_iterator;
    Iterator next_, end_;
  };

 private:
  // (space, first) -> (end, sequence); disjoint.
  std::map<std::pair<uint32_t, uint64_t>, std::pair<uint64_t, uint32_t>> ranges_;
};

struct ResolvedEpoch {
  PageDelta delta;      // against the parent: what equals its entry is left out
  pb::EpochStats stats;  // pages_written, _gone, _zero, _deduplicated, _stored
  uint64_t table_pages = 0;  // after it
};

// `results` as KeepLastWrites leaves them.
ResolvedEpoch ResolveEpoch(const PageTable& parent, const std::vector<PageResult>& results,
                           const GoneRanges& gone);

}  // namespace incr

#endif  // INCR_CKPT_STORE_EPOCH_CHANGES_H_
