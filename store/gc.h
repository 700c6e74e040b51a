// gc.h — one run of Store::CollectGarbage. For gc*.cc and store_writer.cc only.
//
//   plan       which epochs go (gc_policy.h), what becomes of the chains (gc_plan.h)
//   collapse   new manifests for kept epochs whose parent goes, beside the old ones; synced, read back
//   unpublish  one synced write per job: records of dropped epochs gone, kept ones point to the new
//              manifests. From here on nothing refers to what only the dropped epochs had
//   sweep      mark the ids of all manifests in a filter, drop other ids from the index
//   packs      dead ones are deleted; bodies of mostly dead ones are copied, verified, entered at
//              their new place, durable, and then those packs are deleted too
//
// Each step only needs the ones before it durable, and a run that is cut short leaves what the next
// one finds by itself: chunks without a record, ids without a manifest, packs without an id.
//
// Beside it: epochs being written (known_pages.h: their ids are in the filter before they could be
// missed; their parent counts as kept) and readers of any process (reader_lease.h).
#ifndef INCR_CKPT_STORE_GC_H_
#define INCR_CKPT_STORE_GC_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "store/gc_options.h"
#include "store/gc_plan.h"
#include "store/id_filter.h"
#include "store/page_delta.h"
#include "store/store_writer.h"

namespace incr {

class GcRun {
 public:
  // Both outlive it. One at a time per store.
  GcRun(StoreImpl* store, const GcOptions& options) : store_(*store), options_(options) {}
  absl::StatusOr<GcResult> Run();

 private:
  // What of a job is there, and what is to become of it.
  struct JobView {
    std::vector<EpochFacts> epochs;
    std::set<uint64_t> kept;
    std::vector<ChainStep> steps;
  };
  // A kept epoch's new manifest, written but not yet referred to.
  struct NewManifest {
    std::vector<uint64_t> combine;
    bool full = false;
    uint32_t first_chunk = 0;
    uint64_t bytes = 0, checksum = 0;
  };
  using NewManifests = std::map<uint64_t, NewManifest>;
  struct PackUse {
    uint64_t bytes = 0, entries = 0;  // of the index
  };

  absl::Status Progress(const char* step, uint64_t done, uint64_t total) const;

  // gc.cc: plan, collapse, unpublish.
  absl::Status MakePlan();
  absl::Status CheckRequest(const std::vector<std::string>& jobs) const;
  absl::StatusOr<std::vector<EpochFacts>> ListFacts(const std::string& job) const;
  std::set<uint64_t> InUse(const std::string& job) const;
  absl::StatusOr<JobView> LookAt(const std::string& job, const std::set<uint64_t>& dropped) const;
  absl::StatusOr<PageDelta> ReadCombined(const std::string& job,
                                         const std::vector<uint64_t>& epochs) const;
  absl::StatusOr<NewManifest> WriteManifest(const std::string& job, const EpochFacts& facts,
                                            const ChainStep& step);
  absl::Status Publish(const std::string& job, const std::set<uint64_t>& dropped);
  absl::StatusOr<std::set<uint64_t>> LostManifests(const std::string& job,
                                                   const NewManifests& manifests) const;
  absl::Status WritePublication(const std::string& job, const JobView& view,
                                const NewManifests& manifests);
  absl::Status DeleteOrphans();
  absl::StatusOr<bool> IsShortOfRoom() const;
  absl::Status DropWithoutRewriting();

  // gc_full_disk.cc
  absl::Status FreeDeadPacks();
  absl::StatusOr<std::set<uint32_t>> ForgetIdsIn(const std::set<uint32_t>& packs);

  // gc_sweep.cc
  absl::Status Sweep();
  absl::Status Mark(IdFilter* filter) const;
  // Drops the range's ids that are not in `filter`, or only counts them; counts what stays by pack.
  absl::Status SweepRange(const IdFilter& filter, bool drop);
  absl::Status DropIds(const std::vector<PageId>& ids);

  // gc_packs.cc
  absl::Status CleanPacks();
  std::vector<uint32_t> DeadPacks() const;
  std::vector<uint32_t> SparsePacks() const;
  absl::Status RewritePack(uint32_t pack, uint64_t bytes);
  absl::StatusOr<std::set<uint32_t>> StillReferredTo(const std::set<uint32_t>& packs) const;
  absl::Status DeletePacks(std::set<uint32_t> packs);
  absl::Status AwaitReaders(std::set<uint32_t>* packs);
  absl::Status WriteCounted(KvBatch batch);
  absl::Status UnlinkPacks(const std::set<uint32_t>& packs);
  void EstimateBytesAfter();

  StoreImpl& store_;
  const GcOptions& options_;
  GcResult result_;
  std::map<std::string, std::set<uint64_t>> dropped_;  // by job
  uint64_t dropped_record_bytes_ = 0;                  // manifests and images of those
  std::map<uint32_t, uint64_t> lengths_;  // of packs, before the index was looked at
  std::map<uint32_t, PackUse> use_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_GC_H_
