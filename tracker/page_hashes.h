// page_hashes.h — a keyed 128-bit hash of every page of an image, to tell what has changed.
// The one user of xxHash here.
//
// The key is random per hasher: contents cannot be chosen so that a change goes unseen.
// Not thread-safe; 16 bytes a page.
#ifndef INCR_CKPT_TRACKER_PAGE_HASHES_H_
#define INCR_CKPT_TRACKER_PAGE_HASHES_H_

#include <cstdint>
#include <string>

#include "tracker/page_values.h"

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

using PageHashes = PageValues<PageHash>;

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_PAGE_HASHES_H_
