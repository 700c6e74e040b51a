// store_writer.h — Store and EpochWriter, for store_writer.cc and epoch_writer.cc only.
#ifndef INCR_CKPT_STORE_STORE_WRITER_H_
#define INCR_CKPT_STORE_STORE_WRITER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/scoped_fd.h"
#include "store/block_pool.h"
#include "store/commit_count.h"
#include "store/epoch_changes.h"
#include "store/known_pages.h"
#include "store/pack_set.h"
#include "store/page_pipeline.h"
#include "store/reader_lease.h"
#include "store/store.h"
#include "store/store_view.h"
#include "store/worker_pool.h"

namespace incr {

class StoreImpl;

// kInvalidArgument says what a job may be called.
absl::Status CheckStoreJobName(absl::string_view job);
// Room for records of so many bytes, and for RocksDB to get over a failed write.
absl::Status CheckRoom(const std::string& path, uint64_t bytes);
// What the index of so many new pages takes in the database, for CheckRoom.
inline uint64_t IndexBytes(uint64_t pages) { return pages * (kPageIdBytes + kLocationBytes + 16); }
// What the reading side would refuse must not become an epoch.
absl::Status CheckReadable(const EpochEnvelope& envelope);

// The table of one epoch, handed from epoch to epoch of a job so that it need not be read again.
struct HeldTable {
  uint64_t epoch = 0;  // 0: the empty table
  PageTable table;
  uint64_t base_bytes = 0;  // the full table at the root of its chain, as a manifest; 0: not known
};

class EpochWriterImpl : public EpochWriter {
 public:
  EpochWriterImpl(StoreImpl* store, std::string job, uint64_t epoch, HeldTable parent,
                  EpochEnvelope parent_envelope, std::unique_ptr<PackWriter> packs);
  ~EpochWriterImpl() override;

  uint64_t epoch() const override { return epoch_; }
  absl::Status AddPages(uint32_t space, PageRange range, const uint8_t* bytes) override;
  absl::Status AddGone(uint32_t space, PageRange range) override;
  absl::Status Settle() override;
  absl::StatusOr<pb::EpochRecord> Commit(pb::EpochRecord record, absl::string_view image) override;

 private:
  absl::Status SubmitBlock();
  absl::StatusOr<ResolvedEpoch> FinishPages();
  absl::Status WriteEpoch(EpochEnvelope& envelope, absl::string_view manifest,
                          absl::string_view image);
  EpochEnvelope MakeEnvelope(pb::EpochRecord record, const ResolvedEpoch& resolved) const;
  // Whether this epoch gets a full table instead of a delta.
  bool WantsFullTable(uint64_t delta_bytes, uint64_t table_pages) const;

  StoreImpl* const store_;
  const std::string job_;
  const uint64_t epoch_;
  HeldTable parent_;
  const EpochEnvelope parent_envelope_;  // of the parent, empty if there is none
  std::unique_ptr<PackWriter> packs_;
  std::unique_ptr<PagePipeline> pipeline_;
  std::unique_ptr<PageBlock> block_;  // being filled
  GoneRanges gone_;
  PreparedIndex prepared_;
  uint32_t sequence_ = 0;
  bool finished_ = false;  // packs_ durable: no longer to be abandoned
  bool committed_ = false;
  bool called_ = false;
  absl::Status error_;  // sticky
};

class StoreImpl : public Store {
 public:
  StoreImpl(const StoreOptions& options, ScopedFd lock, std::unique_ptr<StoreView> view)
      : options_(options),
        lock_(std::move(lock)),
        view_(std::move(view)),
        blocks_(options.buffer_bytes, WorkerPool::ThreadsFor(options.workers)) {}

  absl::Status Recover();

  std::vector<std::string> ListJobs() const override;
  absl::StatusOr<std::vector<pb::EpochRecord>> ListEpochs(absl::string_view job) const override;
  absl::StatusOr<pb::EpochRecord> GetEpoch(absl::string_view job, uint64_t epoch) const override;
  absl::StatusOr<pb::EpochRecord> LatestEpoch(absl::string_view job) const override;
  absl::StatusOr<PageChanges> ComparePages(absl::string_view job, uint64_t before,
                                           uint64_t after) const override;
  absl::StatusOr<std::string> ReadImage(absl::string_view job, uint64_t epoch) const override;
  absl::StatusOr<PageTable> LoadPageTable(absl::string_view job, uint64_t epoch) const override;
  absl::Status ReadPages(absl::Span<const PageId> ids,
                         absl::FunctionRef<absl::Status(size_t, const uint8_t*)> sink)
      const override;
  absl::StatusOr<std::unique_ptr<EpochWriter>> BeginEpoch(absl::string_view job,
                                                          uint64_t parent) override;
  absl::StatusOr<GcResult> CollectGarbage(const GcOptions& options) override;
  absl::StatusOr<std::unique_ptr<EpochImporter>> BeginImport(absl::string_view job) override;

 private:
  friend class EpochImporterImpl;
  friend class EpochWriterImpl;
  friend class GcRun;

  struct Job {
    bool busy = false;  // has an epoch in the making
    uint64_t parent = 0;  // of that epoch
    uint64_t used = 0;  // clock value of its last use
    std::optional<HeldTable> table;
  };

  // kFailedPrecondition if the job is busy; otherwise it now is.
  absl::StatusOr<std::optional<HeldTable>> Occupy(const std::string& job, uint64_t parent);
  void Release(const std::string& job, std::optional<HeldTable> table);
  absl::StatusOr<std::unique_ptr<EpochWriter>> BeginOccupied(const std::string& job,
                                                             uint64_t parent,
                                                             std::optional<HeldTable>& held);
  PipelineTools Tools();

  const StoreOptions options_;
  const ScopedFd lock_;
  const std::unique_ptr<StoreView> view_;
  std::unique_ptr<PackSet> packs_;
  std::unique_ptr<KnownPages> known_;
  BlockPool blocks_;
  PipelineMemory pipeline_memory_;
  absl::Mutex gc_run_mutex_;  // one gc at a time
  // Packs that nothing refers to: the last generation of readers that may need them. Of gc.
  std::map<uint32_t, uint64_t> unread_from_;
  // Exclusive: gc unpublishes epochs and moves manifests. Shared: whoever looks up an epoch and then
  // what belongs to it. Taken before commit_mutex_.
  mutable absl::Mutex gc_mutex_;
  std::optional<ReaderBarrier> readers_;  // from Recover() on
  absl::Mutex commit_mutex_;  // one epoch at a time goes into the database
  std::optional<CommitFile> commits_;  // from Recover() on; guarded by commit_mutex_
  absl::Mutex jobs_mutex_;
  std::map<std::string, Job> jobs_;
  uint64_t use_clock_ = 0;
  std::unique_ptr<WorkerPool> workers_;  // Last: ends first.
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_STORE_WRITER_H_
