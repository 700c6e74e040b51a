// known_pages.h — which pages have a committed, intact body: what may be deduplicated against.
//
// Ids in memory, about 36 bytes each; above `limit` of them the rest is looked up in the
// database. So is what a store of more than kLoadAtOpen pages held when it was opened: reading 4 million ids
// took 9 s on a busy machine, where a look-up took 15 to 40 us.
//
// gc drops pages while epochs are being written. What an epoch was told to be known must not go
// before its manifest says so: every hit is kept in the epoch's HitList, and while gc watches
// goes into its filter, at once (same lock). Drop() looks at that filter again under the exclusive
// lock.
//
// Thread-safe.
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
#include "store/id_filter.h"
#include "store/pack_set.h"
#include "store/page_id.h"
#include "store/page_index.h"

namespace incr {

inline constexpr size_t kLoadAtOpen = 4'000'000;  // ids; some seconds

// Which known pages one epoch in the making relies on. KnownPages' own.
class HitList {
 public:
  void Add(absl::Span<const PageId> ids);
  void AddTo(IdFilter* filter) const;

 private:
  mutable absl::Mutex mutex_;
  std::vector<PageId> ids_;
  size_t thin_at_ = 1u << 20;  // so many: forget repetitions
};

class KnownPages {
 public:
  // `db` and `packs` outlive it.
  KnownPages(const KvDb* db, const PackSet* packs, size_t limit)
      : db_(db), packs_(packs), limit_(limit) {}

  // From the whole index. At open.
  absl::Status Load();
  // Their index entries are written and their bodies durable.
  void Add(absl::Span<const IndexEntry> entries);
  // (*known)[i] becomes whether ids[i] is known. `hits`: registered.
  absl::Status Find(absl::Span<const PageId> ids, std::vector<bool>* known, HitList* hits) const;

  // From before the first Find() until the epoch is committed or given up.
  void Register(HitList* hits);
  void Unregister(HitList* hits);

  // gc's side. From Watch() to StopWatching() every hit, those of registered lists included, and
  // every new page goes into `filter`.
  void Watch(IdFilter* filter);
  void StopWatching();
  // Before they are written into the index.
  void NoteNew(absl::Span<const IndexEntry> entries);
  // Forgets those of `ids` that the watching filter does not contain, and has `erase` take them out
  // of the index, all while nobody can be told that they are known.
  absl::Status Drop(absl::Span<const PageId> ids,
                    absl::FunctionRef<absl::Status(const std::vector<PageId>& dropped)> erase);
  size_t in_memory() const;

 private:
  absl::Status FindInDatabase(absl::Span<const PageId> ids, std::vector<bool>* known) const;

  const KvDb* const db_;
  const PackSet* const packs_;
  const size_t limit_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<PageId> ids_;
  bool complete_ = true;  // ids_ holds all of them
  uint64_t drops_ = 0;    // calls of Drop()
  IdFilter* watching_ = nullptr;
  absl::flat_hash_set<HitList*> lists_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_KNOWN_PAGES_H_
