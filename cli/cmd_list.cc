#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/text_table.h"
#include "store/store.h"

namespace incr {
namespace {

// Whole seconds are enough for people; JSON has microseconds.
std::string ShortTime(const std::string& time) { return time.substr(0, 19) + "Z"; }

std::string FormatList(const pb::ListReply& reply) {
  if (reply.epochs_size() == 0) return "no epochs yet\n";
  TextTable table({"JOB", ">EPOCH", ">PARENT", "TIME", ">PID", ">SCANNED", ">WRITTEN", ">GONE",
                   ">ZERO", ">DEDUP", ">STORED", ">BYTES", ">FROZEN", ">TOTAL", "TRACKER"});
  for (const pb::EpochRow& row : reply.epochs()) {
    table.Add({row.job(), absl::StrCat(row.epoch()),
               row.parent() == 0 ? "-" : absl::StrCat(row.parent()), ShortTime(row.time()),
               absl::StrCat(row.pid()), absl::StrCat(row.pages_scanned()),
               absl::StrCat(row.pages_written()), absl::StrCat(row.pages_gone()),
               absl::StrCat(row.pages_zero()), absl::StrCat(row.pages_deduplicated()),
               absl::StrCat(row.pages_stored()), FormatBytes(row.bytes_stored()),
               FormatMicros(row.frozen_us()), FormatMicros(row.total_us()), row.tracker()});
  }
  return table.Format();
}

}  // namespace

absl::StatusOr<int> RunList(const CommandContext& context, const ListArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(pb::ListReply reply, ListEpochRows(*reader, args.job));
  INCR_RETURN_IF_ERROR(Print(context, reply, FormatList(reply)));
  return kExitOk;
}

}  // namespace incr
