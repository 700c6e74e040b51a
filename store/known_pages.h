// known_pages.h — which pages have a committed, intact body: what may be deduplicated against.
//
// Ids in memory, about 36 bytes each; above `limit` of them the rest is looked up in the
// database. So is what a store of more than kLoadAtOpen pages held when it was opened: reading 4 million ids
// took 9 s on a busy machine, where a look-up took 15 to 40 us. Thread-safe.
#ifndef INCR_CKPT_STORE_KNOWN_PAGES_H_
#define INCR_CKPT_STORE_KNOWN_PAGES_H_

#include <cstddef>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "store/kv_db.h"
#include "store/pack_set.h"
#include "store/page_id.h"
#include "store/page_index.h"

namespace incr {

inline constexpr size_t kLoadAtOpen = 4'000'000;  // ids; some seconds

class KnownPages {
 public:
  // `db` and `packs` outlive it.
  KnownPages(const KvDb* db, const PackSet* packs, size_t limit)
      : db_(db), packs_(packs), limit_(limit) {}

  // From the whole index. At open.
  absl::Status Load();
  // Their index entries are written and their bodies durable.
  void Add(absl::Span<const IndexEntry> entries);
  // (*known)[i] becomes whether ids[i] is known.
  absl::Status Find(absl::Span<const PageId> ids, std::vector<bool>* known) const;
  size_t in_memory() const;

 private:
  const KvDb* const db_;
  const PackSet* const packs_;
  const size_t limit_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<PageId> ids_;
  bool complete_ = true;  // ids_ holds all of them
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_KNOWN_PAGES_H_
