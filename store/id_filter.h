// id_filter.h — a set of page ids in bounded memory that is sometimes wrong in the safe direction:
// what was inserted is always found; about one other in 500 is, too (it costs its space until
// the next gc).
//
// Ids are hashes under the store's secret, so their bits serve as the filter's hash
// functions. It takes one range of ids: a store too large for one filter is treated range by range.
//
// Thread-safe; who must see an insertion needs a lock in common with it.
#ifndef INCR_CKPT_STORE_ID_FILTER_H_
#define INCR_CKPT_STORE_ID_FILTER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/page_id.h"

namespace incr {

// The ids whose `high` lies in [first, last].
struct IdRange {
  uint64_t first = 0;
  uint64_t last = UINT64_MAX;
  bool Covers(const PageId& id) const { return id.high >= first && id.high <= last; }
};

// Range `part` of `parts` equal ones that together are all.
IdRange PartOfAllIds(uint32_t part, uint32_t parts);

class IdFilter {
 public:
  static constexpr size_t kBytesPerId = 2;

  // Sized for `expected_ids` in the range; more make it find more that is not there.
  IdFilter(IdRange range, uint64_t expected_ids);

  const IdRange& range() const { return range_; }
  size_t bytes() const { return words_.size() * sizeof(uint64_t); }

  void Insert(const PageId& id);  // outside the range: nothing
  bool MayContain(const PageId& id) const;

 private:
  static constexpr size_t kBlockWords = 8;  // one cache line per look-up
  static constexpr int kProbes = 6;
  size_t BlockOf(const PageId& id) const { return id.low % blocks_ * kBlockWords; }

  const IdRange range_;
  uint64_t blocks_;
  std::vector<std::atomic<uint64_t>> words_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_ID_FILTER_H_
