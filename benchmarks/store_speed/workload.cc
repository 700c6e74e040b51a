#include "benchmarks/store_speed/workload.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/status.h"
#include "benchmarks/store_speed/hashing.h"
#include "store/lz4_page.h"

namespace incr::store_speed {
namespace {

constexpr uint64_t kRepeatedContents = 256;
constexpr uint64_t kChangedRun = 8;
constexpr uint64_t kSlabBytes = 64u << 20;

// A heap of objects of 256 bytes: half of each is text or noise that is nowhere else, half are fields much like its
// neighbours'.
class PageMaker {
 public:
  void HalfCompressible(uint8_t* page) {
    uint64_t object[32] = {};
    for (size_t at = 0; at < kPageSize; at += sizeof object) {
      object[0] = 0x00007f3a5c001040;                              // type
      object[1] = 0x00007f3a00000000 | (random_() & 0xfffffff0);  // next
      object[2] = at / sizeof object;
      for (size_t i = 17; i < 32; ++i) object[i] = random_();
      std::memcpy(page + at, object, sizeof object);
    }
  }
  uint64_t Number() { return random_(); }

 private:
  std::mt19937_64 random_{20261129};
};

void FillFirst(PageMaker& make, uint64_t pages, uint8_t* bytes) {
  std::vector<uint8_t> repeated(kRepeatedContents * kPageSize);
  for (uint64_t i = 0; i < kRepeatedContents; ++i) make.HalfCompressible(repeated.data() + i * kPageSize);
  for (uint64_t page = 0; page < pages; ++page) {
    uint8_t* to = bytes + page * kPageSize;
    // Stretches of one kind, as in a process.
    switch (page / 32 % 4) {
      case 0: std::memset(to, 0, kPageSize); break;
      case 1: std::memcpy(to, repeated.data() + make.Number() % kRepeatedContents * kPageSize, kPageSize); break;
      default: make.HalfCompressible(to);
    }
  }
}

EpochPages ChangedEpoch(PageMaker& make, uint64_t table_pages, uint8_t* bytes, uint64_t count) {
  std::set<uint64_t> places;
  while (places.size() * kChangedRun < count) places.insert(make.Number() % (table_pages / kChangedRun) * kChangedRun);
  EpochPages epoch;
  for (const uint64_t place : places) {
    epoch.runs.push_back({{place, kChangedRun}, bytes});
    for (uint64_t i = 0; i < kChangedRun; ++i, bytes += kPageSize) make.HalfCompressible(bytes);
  }
  return epoch;
}

}  // namespace

uint8_t* Workload::Allocate(uint64_t pages) {
  if (pages * kPageSize > left_) {
    left_ = std::max<uint64_t>(pages * kPageSize, kSlabBytes);
    arena_.emplace_back(left_);
    INCR_CHECK(arena_.back().data() != nullptr);
  }
  uint8_t* const start = arena_.back().data() + arena_.back().size() - left_;
  left_ -= pages * kPageSize;
  return start;
}

void Workload::Finish() {
  const PageHasher hasher = BenchmarkHasher();
  std::unordered_map<PageId, size_t, IdHash> sizes;
  uint8_t body[kMaxCompressedPage];
  for (EpochPages& epoch : epochs_) {
    for (const Run& run : epoch.runs) {
      for (uint64_t i = 0; i < run.range.count; ++i) {
        const uint8_t* page = run.bytes + i * kPageSize;
        table_[run.range.first + i] = page;
        ++epoch.pages;
        if (PageHasher::IsZeroPage(page)) {
          ++epoch.zero;
        } else if (const auto [entry, fresh] = sizes.emplace(hasher.Hash(page), 0); fresh) {
          const size_t size = CompressPage(page, body);
          entry->second = size == 0 ? kPageSize : size;
          epoch.payload += entry->second;
          epoch.fresh.push_back(page);
        }
      }
    }
  }
  for (const Run& run : epochs_[0].runs) {
    for (uint64_t i = 0; i < run.range.count; ++i) first_table_[run.range.first + i] = run.bytes + i * kPageSize;
  }
  std::unordered_map<PageId, size_t, IdHash> last;
  for (const auto& [number, page] : table_) {
    if (PageHasher::IsZeroPage(page)) continue;
    const PageId id = hasher.Hash(page);
    if (last.emplace(id, 0).second) final_payload_ += sizes.at(id);
  }
}

Workload SyntheticWorkload(uint64_t mib, int changed) {
  Workload workload("synthetic");
  PageMaker make;
  const uint64_t pages = mib * 256;
  EpochPages first;
  uint8_t* bytes = workload.Allocate(pages);
  FillFirst(make, pages, bytes);
  first.runs.push_back({{0x10000, pages}, bytes});
  workload.Add(std::move(first));
  const uint64_t count = pages / 20 / kChangedRun * kChangedRun;
  for (int i = 0; i < changed; ++i) {
    EpochPages epoch = ChangedEpoch(make, pages, workload.Allocate(count), count);
    for (Run& run : epoch.runs) run.range.first += 0x10000;
    workload.Add(std::move(epoch));
  }
  workload.Finish();
  return workload;
}

}  // namespace incr::store_speed
