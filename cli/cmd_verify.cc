#include <algorithm>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/progress_line.h"
#include "cli/verify_report.h"
#include "store/store.h"
#include "store/verify.h"

namespace incr {
namespace {

// --job and --epoch as the other commands choose them.
absl::Status ChooseScope(const std::string& store, const VerifyArgs& args, VerifyOptions* options) {
  if (args.job.empty() && args.epoch.empty()) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(options->job, ChooseJob(*reader, args.job));
  if (args.epoch.empty()) return absl::OkStatus();
  if (args.epoch == "latest") {
    options->latest = true;
    return absl::OkStatus();
  }
  // A damaged record is what verify is for.
  const absl::Status chosen = ChooseEpoch(*reader, options->job, args.epoch).status();
  if (!absl::IsDataLoss(chosen)) INCR_RETURN_IF_ERROR(chosen);
  (void)absl::SimpleAtoi(args.epoch, &options->epoch);
  return absl::OkStatus();
}

// Without the image (damaged as well), addresses stay without names.
void AddRanges(const StoreReader* reader, const DamagedEpoch& epoch, pb::VerifyEpoch* row) {
  pb::Image image;
  if (reader != nullptr) {
    absl::StatusOr<std::string> bytes = reader->ReadImage(epoch.job, epoch.epoch);
    if (bytes.ok()) (void)image.ParseFromString(*bytes);
  }
  for (pb::VerifyRange& range : NameLostRuns(epoch.lost, image)) *row->add_ranges() = std::move(range);
}

}  // namespace

absl::StatusOr<int> RunVerify(const CommandContext& context, const VerifyArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  VerifyOptions options;
  INCR_RETURN_IF_ERROR(ChooseScope(store, args, &options));
  pb::VerifyReply reply;
  uint64_t epoch = 0;
  {
    ProgressLine line("verify");
    options.progress = [&](const VerifyProgress& progress) {
      line.Show(progress.bytes, progress.total_bytes,
                progress.epochs == 0 ? "" : absl::StrCat(progress.epochs, " epochs"));
    };
    INCR_ASSIGN_OR_RETURN(const VerifyReport report, VerifyStore(store, options));
    reply = DescribeVerify(report);
    epoch = report.epoch;
    const absl::StatusOr<std::unique_ptr<StoreReader>> reader = StoreReader::Open(store);
    for (size_t i = 0; i < report.damaged_epochs.size(); ++i) {
      AddRanges(reader.ok() ? reader->get() : nullptr, report.damaged_epochs[i], reply.mutable_damaged_epochs(i));
    }
    reply.set_elapsed_s(line.elapsed_s());
  }
  reply.set_bytes_per_s(reply.bytes_read() / std::max(reply.elapsed_s(), 1e-6));
  reply.set_store(store);
  reply.set_job(options.job);
  reply.set_epoch(epoch);
  INCR_RETURN_IF_ERROR(Print(context, reply, FormatVerify(reply)));
  return reply.ok() ? kExitOk : kExitFailed;
}

}  // namespace incr
