// page_hashes.h — a keyed 128-bit hash of every page of an image, to tell what has changed.
// The one user of xxHash here.
//
// The key is random per hasher: contents cannot be chosen so that a change goes unseen.
// Not thread-safe; 16 bytes a page.
#ifndef INCR_CKPT_TRACKER_PAGE_HASHES_H_
#define INCR_CKPT_TRACKER_PAGE_HASHES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/page_range.h"

namespace incr {

struct PageHash {
  uint64_t low = 0, high = 0;
  bool operator==(const PageHash&) const = default;
};

class RandomPageHasher {
 public:
  RandomPageHasher();
  PageHash Hash(const uint8_t* page) const;  // kPageSize bytes

 private:
  std::string secret_;
};

// Pages with their hashes, filled and searched in ascending order of page number only.
class PageHashes {
 public:
  void Append(uint64_t page, const PageHash& hash);  // greater than all before
  size_t page_count() const { return hashes_.size(); }

  class Cursor {
   public:
    explicit Cursor(const PageHashes& hashes) : hashes_(&hashes) {}
    // Null if the page is not there. `page` is greater than at the last call.
    const PageHash* Find(uint64_t page);

   private:
    const PageHashes* hashes_;
    size_t run_ = 0;
    size_t run_start_ = 0;  // index of the run's first hash
  };

 private:
  std::vector<PageRange> runs_;
  std::vector<PageHash> hashes_;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_PAGE_HASHES_H_
