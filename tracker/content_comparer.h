// content_comparer.h — finds changed pages by their content: this epoch's hashes against the
// last durable epoch's.
//
// Only a stopped target can be compared. While it runs, a page may read A when hashed, B when
// copied, and A again at the freeze: the hash would say "unchanged" and the epoch would hold B.
//
// Not thread-safe.
#ifndef INCR_CKPT_TRACKER_CONTENT_COMPARER_H_
#define INCR_CKPT_TRACKER_CONTENT_COMPARER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "base/page_range.h"
#include "tracker/page_hashes.h"

namespace incr {

class ContentComparer {
 public:
  // One pass over the target: Begin, Visit by ascending page, then the two sets are whole.
  void Begin();
  void Visit(uint64_t page, const uint8_t* bytes);
  // Called in the course of a pass, every 64 MiB of content (some 20 ms).
  void set_heartbeat(std::function<void()> heartbeat) { heartbeat_ = std::move(heartbeat); }
  const PageSet& changed() const { return changed_; }
  const PageSet& content() const { return content_; }

  // The pass becomes what later ones are compared with. The sets stay until the next Begin.
  void Keep();
  // Everything is new again.
  void Reset();

 private:
  RandomPageHasher hasher_;
  PageHashes durable_, current_;
  std::optional<PageHashes::Cursor> cursor_;
  PageSet changed_, content_;
  std::function<void()> heartbeat_;
  uint64_t visited_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_CONTENT_COMPARER_H_
