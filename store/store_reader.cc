#include <fcntl.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "store/compare_epochs.h"
#include "store/page_fetch.h"
#include "store/store.h"
#include "store/store_view.h"

namespace incr {
namespace {

absl::StatusOr<std::shared_ptr<const StoreView>> OpenView(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(StoreIdentity identity, ReadIdentity(paths));
  INCR_ASSIGN_OR_RETURN(ReaderLease lease, ReaderLease::Take(paths));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db,
                        KvDb::Open(paths.db, KvDb::Mode::kReadOnly, {paths.io}));
  return std::make_shared<const StoreView>(paths, std::move(identity), std::move(db),
                                           std::move(lease));
}

class StoreReaderImpl : public StoreReader {
 public:
  explicit StoreReaderImpl(std::shared_ptr<const StoreView> view) : view_(std::move(view)) {}

  absl::Status Refresh() override {
    INCR_ASSIGN_OR_RETURN(std::shared_ptr<const StoreView> newer, OpenView(View()->paths));
    absl::MutexLock lock(&mutex_);
    view_ = std::move(newer);
    return absl::OkStatus();
  }
  std::vector<std::string> ListJobs() const override {
    return View()->catalog.ListJobs().value_or(std::vector<std::string>());
  }
  absl::StatusOr<std::vector<pb::EpochRecord>> ListEpochs(absl::string_view job) const override {
    return View()->catalog.ListEpochs(job);
  }
  absl::StatusOr<pb::EpochRecord> GetEpoch(absl::string_view job, uint64_t epoch) const override {
    INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, View()->catalog.GetEpoch(job, epoch));
    return std::move(envelope.record);
  }
  absl::StatusOr<pb::EpochRecord> LatestEpoch(absl::string_view job) const override {
    INCR_ASSIGN_OR_RETURN(EpochEnvelope envelope, View()->catalog.LatestEpoch(job));
    return std::move(envelope.record);
  }
  absl::StatusOr<PageChanges> ComparePages(absl::string_view job, uint64_t before,
                                           uint64_t after) const override {
    return CompareEpochs(View()->catalog, job, before, after);
  }
  absl::StatusOr<std::string> ReadImage(absl::string_view job, uint64_t epoch) const override {
    return View()->catalog.ReadImage(job, epoch);
  }
  absl::StatusOr<PageTable> LoadPageTable(absl::string_view job, uint64_t epoch) const override {
    return View()->catalog.LoadPageTable(job, epoch);
  }
  absl::Status ReadPages(absl::Span<const PageId> ids,
                         absl::FunctionRef<absl::Status(size_t, const uint8_t*)> sink)
      const override {
    const std::shared_ptr<const StoreView> view = View();
    return FetchPages(*view->db, view->packs, ids, sink);
  }

 private:
  std::shared_ptr<const StoreView> View() const {
    absl::MutexLock lock(&mutex_);
    return view_;
  }

  mutable absl::Mutex mutex_;
  std::shared_ptr<const StoreView> view_;
};

}  // namespace

absl::Status StoreReader::Refresh() { return absl::OkStatus(); }

absl::StatusOr<GcResult> Store::CollectGarbage(const GcOptions&) {
  return absl::UnimplementedError("this store has no gc");
}

absl::StatusOr<pb::EpochRecord> StoreReader::LatestEpoch(absl::string_view job) const {
  INCR_ASSIGN_OR_RETURN(std::vector<pb::EpochRecord> records, ListEpochs(job));
  if (records.empty()) return absl::NotFoundError(absl::StrCat("job ", job, " has no epochs"));
  return std::move(records.back());
}

absl::StatusOr<PageChanges> StoreReader::ComparePages(absl::string_view job, uint64_t before,
                                                      uint64_t after) const {
  INCR_ASSIGN_OR_RETURN(const PageTable old_table, LoadPageTable(job, before));
  INCR_ASSIGN_OR_RETURN(const PageTable new_table, LoadPageTable(job, after));
  return CompareTables(old_table, new_table);
}

absl::StatusOr<std::unique_ptr<StoreReader>> StoreReader::Open(const std::string& directory,
                                                               FileFaults* faults) {
  INCR_ASSIGN_OR_RETURN(std::shared_ptr<const StoreView> view, OpenView(StorePaths(directory, FileIo(faults))));
  return std::make_unique<StoreReaderImpl>(std::move(view));
}

}  // namespace incr
