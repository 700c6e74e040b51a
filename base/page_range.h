// page_range.h — sets of pages as sorted runs. A page number is an address / kPageSize.
// Not thread-safe.
#ifndef INCR_CKPT_BASE_PAGE_RANGE_H_
#define INCR_CKPT_BASE_PAGE_RANGE_H_

#include <cstdint>
#include <vector>

namespace incr {

inline constexpr uint64_t kPageSize = 4096;  // x86-64

struct PageRange {
  uint64_t first = 0;  // page number
  uint64_t count = 0;
  uint64_t end() const { return first + count; }
  bool operator==(const PageRange&) const = default;
};

// Sorted, disjoint, maximal runs (touching runs are joined).
class PageSet {
 public:
  PageSet() = default;

  // Fast when ranges arrive in order.
  void Add(PageRange range);
  void Add(const PageSet& other);
  void Remove(PageRange range);
  void Remove(const PageSet& other);
  PageSet Intersect(const PageSet& other) const;
  bool Contains(uint64_t page) const;
  void Clear() { runs_.clear(); }

  bool empty() const { return runs_.empty(); }
  uint64_t page_count() const;
  const std::vector<PageRange>& runs() const { return runs_; }
  bool operator==(const PageSet&) const = default;

 private:
  std::vector<PageRange> runs_;
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_PAGE_RANGE_H_
