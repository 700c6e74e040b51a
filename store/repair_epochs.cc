#include "store/repair_epochs.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/checksum.h"
#include "store/epoch_walk.h"
#include "store/manifest.h"

namespace incr {
namespace {

class Saver {
 public:
  Saver(const KvDb& from, KvDb* into) : from_(from), catalog_(&from), into_(into), lost_(into) {}

  absl::StatusOr<SavedEpochs> Run() {
    INCR_RETURN_IF_ERROR(WalkEpochs(
        from_, [](absl::string_view, uint64_t) { return true; },
        [&](const WalkedEpoch& walked) {
          if (!status_.ok()) return;
          heads_[walked.job] = std::max(heads_[walked.job], walked.epoch);
          if (const std::string why = WhyNot(walked); !why.empty()) {
            Drop(walked.job, walked.epoch, walked.envelope.record.parent(), why);
          } else {
            status_ = Keep(walked);
          }
        },
        [&](const std::string& job, uint64_t epoch, const absl::Status& status) {
          if (job.empty()) return;
          heads_[job] = std::max(heads_[job], epoch);
          const absl::StatusOr<EpochEnvelope> envelope = catalog_.GetEpoch(job, epoch);
          Drop(job, epoch, envelope.ok() ? envelope->record.parent() : 0, std::string(status.message()));
        }));
    INCR_RETURN_IF_ERROR(status_);
    INCR_RETURN_IF_ERROR(SaveHeads());
    return std::move(result_);
  }

 private:
  using Name = std::pair<std::string, uint64_t>;
  struct Kept {
    uint32_t depth = 0;
    uint64_t chain_bytes = 0;
  };

  // "" if it can be kept.
  std::string WhyNot(const WalkedEpoch& walked) {
    const absl::Status image = Twice([&] { return catalog_.ReadImage(walked.job, walked.epoch).status(); });
    if (!image.ok()) return std::string(image.message());
    lost_.AddMissing(walked.own.written);
    if (lost_.empty()) return "";
    const size_t n = std::count_if(walked.table.begin(), walked.table.end(),
                                   [&](const PageTableEntry& entry) { return lost_.Has(entry.id); });
    return n == 0 ? "" : absl::StrCat(n, " of its ", walked.table.size(), " pages are lost");
  }

  void Drop(const std::string& job, uint64_t epoch, uint64_t parent, std::string why) {
    dropped_[{job, epoch}] = NearestKept(job, parent);
    result_.dropped.push_back({job, epoch, std::move(why)});
  }

  uint64_t NearestKept(const std::string& job, uint64_t epoch) const {
    if (kept_.count({job, epoch}) != 0) return epoch;
    const auto dropped = dropped_.find({job, epoch});
    return dropped == dropped_.end() ? 0 : dropped->second;
  }

  absl::Status Keep(const WalkedEpoch& walked) {
    EpochEnvelope envelope = walked.envelope;
    const uint64_t parent = walked.envelope.record.parent();
    envelope.record.set_parent(NearestKept(walked.job, parent));
    const bool on_parent = envelope.depth > 0 && envelope.record.parent() == parent;
    const std::string manifest = EncodeManifest(on_parent ? walked.own : PageDelta{walked.table, {}});
    Kept now{0, manifest.size()};
    if (on_parent) {
      const Kept& below = kept_.at({walked.job, parent});
      now = {below.depth + 1, below.chain_bytes + manifest.size()};
    } else if (envelope.depth > 0) {
      ++result_.rewritten;
    }
    envelope.depth = now.depth;
    envelope.chain_bytes = now.chain_bytes;
    envelope.manifest_bytes = manifest.size();
    envelope.manifest_checksum = Checksum64(manifest);
    envelope.first_chunk = 0;
    INCR_ASSIGN_OR_RETURN(const std::string image, catalog_.ReadImage(walked.job, walked.epoch));
    INCR_RETURN_IF_ERROR(WriteChunks(*into_, KvTable::kManifests, walked.job, walked.epoch, manifest));
    INCR_RETURN_IF_ERROR(WriteChunks(*into_, KvTable::kImages, walked.job, walked.epoch, image));
    INCR_RETURN_IF_ERROR(WriteRecord(*into_, envelope));
    kept_[{walked.job, walked.epoch}] = now;
    ++result_.kept;
    return absl::OkStatus();
  }

  absl::Status SaveHeads() {
    INCR_RETURN_IF_ERROR(from_.Scan(KvTable::kJobs, "", [&](absl::string_view key, absl::string_view value) {
      if (!IsValidJobName(key) || value.size() != 8) return absl::OkStatus();
      uint64_t& head = heads_[std::string(key)];
      head = std::max(head, GetLittle<uint64_t>(value.data()));
      return absl::OkStatus();
    }));
    KvBatch batch;
    for (const auto& [job, head] : heads_) {
      std::string value;
      AppendLittle<uint64_t>(&value, head);
      batch.Add(KvTable::kJobs, job, std::move(value));
      // Or verify would take it for a record that the database has forgotten.
      if (kept_.count({job, head}) == 0) AddDroppedHead(&batch, job, head);
    }
    return batch.puts().empty() ? absl::OkStatus() : into_->Write(batch, /*sync=*/false);
  }

  const KvDb& from_;
  const Catalog catalog_;
  KvDb* const into_;
  LostPages lost_;
  absl::Status status_;
  std::map<Name, Kept> kept_;
  std::map<Name, uint64_t> dropped_;  // -> its nearest kept ancestor, 0: none
  std::map<std::string, uint64_t> heads_;
  SavedEpochs result_;
};

}  // namespace

absl::StatusOr<SavedEpochs> SaveEpochs(const KvDb& from, KvDb* into) { return Saver(from, into).Run(); }

}  // namespace incr
