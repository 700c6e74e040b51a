// page_values.h — one value for each page of a set, filled and searched in ascending order of page number
// only. Not thread-safe.
#ifndef INCR_CKPT_TRACKER_PAGE_VALUES_H_
#define INCR_CKPT_TRACKER_PAGE_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/page_range.h"
#include "base/status.h"

namespace incr {

template <typename Value>
class PageValues {
 public:
  void Append(uint64_t page, const Value& value) {  // greater than all before
    INCR_CHECK(runs_.empty() || page >= runs_.back().end());
    if (!runs_.empty() && runs_.back().end() == page) {
      ++runs_.back().count;
    } else {
      runs_.push_back({page, 1});
    }
    values_.push_back(value);
  }
  size_t page_count() const { return values_.size(); }

  class Cursor {
   public:
    explicit Cursor(const PageValues& values) : values_(&values) {}
    // Null if the page is not there. `page` is greater than at the last call.
    const Value* Find(uint64_t page) {
      const std::vector<PageRange>& runs = values_->runs_;
      while (run_ < runs.size() && runs[run_].end() <= page) run_start_ += runs[run_++].count;
      if (run_ == runs.size() || runs[run_].first > page) return nullptr;
      return &values_->values_[run_start_ + (page - runs[run_].first)];
    }

   private:
    const PageValues* values_;
    size_t run_ = 0;
    size_t run_start_ = 0;  // index of the run's first value
  };

 private:
  std::vector<PageRange> runs_;
  std::vector<Value> values_;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_PAGE_VALUES_H_
