// workload.h — what is stored: a first epoch and the changed epochs after it, with what there is to know beforehand
// about their pages, so that every contender is given, and measured against, the same.
//
// A page's bytes lie in `arena`; pages that stay the same from epoch to epoch are not given again.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_WORKLOAD_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/page_range.h"
#include "store/aligned_buffer.h"

namespace incr::store_speed {

struct Run {
  PageRange range;  // where in the process
  const uint8_t* bytes = nullptr;
};

struct EpochPages {
  std::vector<Run> runs;  // ascending
  // Filled in by Workload::Finish.
  uint64_t pages = 0;
  uint64_t zero = 0;
  std::vector<const uint8_t*> fresh;  // contents that no page before had: their bodies must be stored
  uint64_t payload = 0;               // bytes of those, compressed
};

class Workload {
 public:
  explicit Workload(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const std::vector<EpochPages>& epochs() const { return epochs_; }  // [0]: the first one
  uint64_t table_pages() const { return table_.size(); }
  // The process's page after the last epoch.
  const uint8_t* Final(uint64_t page) const { return table_.at(page); }

  const uint8_t* First(uint64_t page) const { return first_table_.at(page); }
  uint64_t first_pages() const { return first_table_.size(); }
  // Compressed bytes of the different pages that the process has after the last epoch: what a restore must read.
  uint64_t FinalPayload() const { return final_payload_; }

  // Memory for so many pages, as long as this lives.
  uint8_t* Allocate(uint64_t pages);
  void Add(EpochPages epoch) { epochs_.push_back(std::move(epoch)); }
  // After the last Add: sorts out what is zero, seen before or fresh, and compresses that.
  void Finish();

 private:
  std::string name_;
  std::vector<AlignedBuffer> arena_;
  uint64_t left_ = 0;  // of the last one
  std::vector<EpochPages> epochs_;
  std::map<uint64_t, const uint8_t*> first_table_, table_;
  uint64_t final_payload_ = 0;
};

// `mib` of pages: 25 % zero, 25 % repeated (each of 256 contents many times), 50 % that LZ4 halves; then `changed` epochs
// of 5 % of the pages, in runs of 8 at random places, each of new content that LZ4 halves.
Workload SyntheticWorkload(uint64_t mib, int changed);

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_WORKLOAD_H_
