#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/show_image.h"
#include "store/store.h"

namespace incr {

absl::StatusOr<int> RunShow(const CommandContext& context, const ShowArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(const std::string job, ChooseJob(*reader, args.job));
  INCR_ASSIGN_OR_RETURN(pb::EpochRecord record, ChooseEpoch(*reader, job, args.epoch));
  INCR_ASSIGN_OR_RETURN(const std::string bytes, reader->ReadImage(job, record.epoch()));
  INCR_ASSIGN_OR_RETURN(const PageTable table, reader->LoadPageTable(job, record.epoch()));
  pb::Image image;
  if (!image.ParseFromString(bytes)) {
    return absl::DataLossError(
        absl::StrCat("the image of epoch ", record.epoch(), " of job ", job, " does not parse"));
  }
  const pb::ShowReply reply = DescribeEpoch(record, image, table);
  INCR_RETURN_IF_ERROR(Print(context, reply, FormatShow(reply)));
  return kExitOk;
}

}  // namespace incr
