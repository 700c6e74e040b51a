#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/diff_bytes.h"
#include "cli/diff_image.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "proto/image_check.h"
#include "store/store.h"

namespace incr {
namespace {

absl::StatusOr<EpochSide> ReadSide(const StoreReader& store, const std::string& job,
                                   const std::string& epoch) {
  EpochSide side;
  INCR_ASSIGN_OR_RETURN(side.record, ChooseEpoch(store, job, epoch));
  INCR_ASSIGN_OR_RETURN(const std::string bytes, store.ReadImage(job, side.record.epoch()));
  const std::string name = absl::StrCat("epoch ", side.record.epoch(), " of job ", job);
  absl::StatusOr<pb::Image> image = ParseImage(bytes);
  if (!image.ok()) {
    return absl::DataLossError(absl::StrCat("the image of ", name, ": ", image.status().message()));
  }
  if (image->processes_size() == 0) {
    return absl::DataLossError(absl::StrCat("the image of ", name, " has no process"));
  }
  side.image = *std::move(image);
  return side;
}

}  // namespace

absl::StatusOr<int> RunDiff(const CommandContext& context, const DiffArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(const std::string job, ChooseJob(*reader, args.job));
  INCR_ASSIGN_OR_RETURN(const EpochSide before, ReadSide(*reader, job, args.before));
  INCR_ASSIGN_OR_RETURN(const EpochSide after, ReadSide(*reader, job, args.after));
  INCR_ASSIGN_OR_RETURN(
      const PageChanges changes,
      reader->ComparePages(job, before.record.epoch(), after.record.epoch()));
  pb::DiffReply reply = DescribeDiff(before, after, changes);
  if (!args.bytes.empty()) {
    INCR_ASSIGN_OR_RETURN(std::vector<AddressRange> ranges,
                          ParseRanges(args.bytes, before, after));
    ByteLines lines(std::move(ranges), args.max_lines);
    Progress progress("comparing bytes");
    INCR_RETURN_IF_ERROR(
        CompareBytes(*reader, before, after, changes, &lines, [&] { progress.Tick(); }));
    *reply.mutable_bytes() = std::move(lines).Take();
  }
  INCR_RETURN_IF_ERROR(Print(context, reply, FormatDiff(reply)));
  return kExitOk;
}

}  // namespace incr
