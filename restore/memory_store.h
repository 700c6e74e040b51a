// memory_store.h — a StoreReader that lives in memory, for tests of restore alone: pages by
// address, and a page can be spoiled to see the restore refuse it.
#ifndef INCR_CKPT_RESTORE_MEMORY_STORE_H_
#define INCR_CKPT_RESTORE_MEMORY_STORE_H_

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/page_range.h"
#include "base/status.h"
#include "proto/image.pb.h"
#include "store/store.h"

namespace incr {

class MemoryStore : public StoreReader {
 public:
  struct Epoch {
    std::string image;
    std::map<uint64_t, std::string> pages;  // by page number
  };

  // Number of the new epoch, from 1.
  uint64_t Add(Epoch epoch) {
    epochs_.push_back(std::move(epoch));
    return epochs_.size();
  }
  Epoch& epoch(uint64_t number) { return epochs_[number - 1]; }
  // The next ReadPages finds the `index`th page of its list damaged.
  void SpoilPage(size_t index) { spoiled_ = static_cast<int64_t>(index); }
  // The page of this number is damaged in every epoch.
  void DamagePage(uint64_t page) { damaged_ = page; }

  std::vector<std::string> ListJobs() const override { return {"job"}; }
  absl::StatusOr<std::vector<pb::EpochRecord>> ListEpochs(absl::string_view) const override {
    return std::vector<pb::EpochRecord>(epochs_.size());
  }
  absl::StatusOr<pb::EpochRecord> GetEpoch(absl::string_view job, uint64_t epoch) const override {
    if (epoch == 0 || epoch > epochs_.size()) {
      return absl::NotFoundError(absl::StrCat("job ", job, " has no epoch ", epoch));
    }
    return pb::EpochRecord();
  }
  absl::StatusOr<std::string> ReadImage(absl::string_view, uint64_t epoch) const override {
    return epochs_[epoch - 1].image;
  }
  absl::StatusOr<PageTable> LoadPageTable(absl::string_view, uint64_t epoch) const override {
    PageTable table;
    const std::string zero(kPageSize, '\0');
    for (const auto& [page, bytes] : epochs_[epoch - 1].pages) {
      // An id that says where the body is; nobody but this class looks into it.
      table.push_back({0, page, bytes == zero ? kZeroPageId : PageId{epoch, page}});
    }
    return table;
  }
  absl::Status ReadPages(absl::Span<const PageId> ids,
                         absl::FunctionRef<absl::Status(size_t, const uint8_t*)> sink) const override {
    static const std::string zero(kPageSize, '\0');
    for (size_t i = 0; i < ids.size(); ++i) {
      if (spoiled_ == static_cast<int64_t>(i)) return absl::DataLossError("page of a wrong hash");
      if (!ids[i].is_zero_page() && ids[i].low == damaged_) {
        return absl::DataLossError("damaged page of a wrong hash");
      }
      const std::string& bytes =
          ids[i].is_zero_page() ? zero : epochs_[ids[i].high - 1].pages.at(ids[i].low);
      INCR_RETURN_IF_ERROR(sink(i, reinterpret_cast<const uint8_t*>(bytes.data())));
    }
    return absl::OkStatus();
  }

 private:
  std::vector<Epoch> epochs_;
  int64_t spoiled_ = -1;
  uint64_t damaged_ = UINT64_MAX;
};

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_MEMORY_STORE_H_
