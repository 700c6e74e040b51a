// page_pipeline.h — one epoch's pages on worker threads:
// zero? same as the parent's table? known? — else LZ4 and into a pack.
//
// LZ4 is the bottleneck (1-2.5 GiB/s a core), hashing runs at 16 GiB/s: so the order.
// Deduplicates against committed bodies and against this epoch's own, never against
// another epoch's in the making.
//
// Submit and Drain from one thread.
#ifndef INCR_CKPT_STORE_PAGE_PIPELINE_H_
#define INCR_CKPT_STORE_PAGE_PIPELINE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "store/block_pool.h"
#include "store/known_pages.h"
#include "store/pack_reader.h"
#include "store/pack_writer.h"
#include "store/page_id.h"
#include "store/page_index.h"
#include "store/page_result.h"
#include "store/page_table.h"
#include "store/worker_pool.h"

namespace incr {

// Memory that grew in one epoch, for the next: fresh memory costs a page fault per page.
class PipelineMemory {
 public:
  struct Lists {
    std::vector<PageResult> results;
    std::vector<IndexEntry> stored;
  };
  Lists Take();
  void Give(Lists lists);

 private:
  absl::Mutex mutex_;
  std::vector<Lists> spare_;
};

// What the pipelines of a store share. All outlive them.
struct PipelineTools {
  const PageHasher* hasher = nullptr;
  KnownPages* known = nullptr;
  const KvDb* db = nullptr;
  const PackReader* reader = nullptr;
  BlockPool* blocks = nullptr;
  WorkerPool* workers = nullptr;
  PipelineMemory* memory = nullptr;
  bool paranoid = false;
};

class PagePipeline {
 public:
  // `parent` and `packs` outlive it.
  PagePipeline(const PipelineTools& tools, const PageTable* parent, PackWriter* packs)
      : tools_(tools), parent_(parent), packs_(packs) {
    tools_.known->Register(&hits_);
    lists_ = tools_.memory->Take();
  }
  ~PagePipeline();  // Drops what is still queued.

  // Waits while the store's buffer bound is reached. An earlier block's error comes back here.
  absl::Status Submit(std::unique_ptr<PageBlock> block);
  // Waits until all blocks are done.
  absl::Status Drain();

  // After Drain(). Results in no particular order.
  std::vector<PageResult>& results() { return lists_.results; }
  std::vector<IndexEntry>& stored() { return lists_.stored; }

 private:
  struct Work;  // one block being processed
  void Process(std::unique_ptr<PageBlock> block);
  absl::Status ProcessBlock(PageBlock& block, std::vector<PageResult>* results);
  void Classify(const PageBlock& block, Work* work) const;
  absl::Status FindKnown(const PageBlock& block, Work* work);
  absl::Status Store(PageBlock& block, Work* work);
  // The same, comparing bytes with this epoch's own bodies; one block at a time.
  absl::Status StoreParanoid(const PageBlock& block, Work* work);
  // False if there is no such body, or a damaged one. Another content is an error.
  absl::StatusOr<bool> MatchesCommitted(const PageId& id, const uint8_t* page) const;
  void WaitIdle();

  const PipelineTools tools_;
  const PageTable* const parent_;
  PackWriter* const packs_;
  HitList hits_;  // what this epoch relies on: gc leaves it alone

  PipelineMemory::Lists lists_;  // mutex_ has .results, pack_mutex_ .stored

  absl::Mutex mutex_;
  int outstanding_ = 0;
  bool cancelled_ = false;
  absl::Status error_;
  size_t thin_at_ = 1u << 20;  // so many results: forget those of older writes
  absl::flat_hash_set<PageId> claimed_;  // bodies that this epoch stores

  absl::Mutex pack_mutex_;  // packs_, lists_.stored
  absl::flat_hash_map<PageId, PageLocation> own_;  // paranoid only
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_PIPELINE_H_
