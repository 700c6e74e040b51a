#include <fcntl.h>

#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "store/page_fetch.h"
#include "store/store.h"
#include "store/store_view.h"

namespace incr {
namespace {

absl::StatusOr<std::shared_ptr<const StoreView>> OpenView(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(StoreIdentity identity, ReadIdentity(paths));
  INCR_ASSIGN_OR_RETURN(ReaderLease lease, ReaderLease::Take(paths));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db, KvDb::Open(paths.db, KvDb::Mode::kReadOnly));
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

absl::StatusOr<std::unique_ptr<StoreReader>> StoreReader::Open(const std::string& directory) {
  INCR_ASSIGN_OR_RETURN(std::shared_ptr<const StoreView> view, OpenView(StorePaths(directory)));
  return std::make_unique<StoreReaderImpl>(std::move(view));
}

}  // namespace incr
