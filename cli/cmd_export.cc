#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "cli/output_file.h"
#include "cli/progress_line.h"
#include "cli/text_table.h"
#include "store/export.h"
#include "store/store.h"

namespace incr {
namespace {

absl::StatusOr<std::vector<uint64_t>> ChooseEpochs(const StoreReader& reader, const std::string& job,
                                                   const std::vector<std::string>& names) {
  std::vector<uint64_t> epochs;
  for (const std::string& name : names) {
    INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record, ChooseEpoch(reader, job, name));
    epochs.push_back(record.epoch());
  }
  std::sort(epochs.begin(), epochs.end());
  epochs.erase(std::unique(epochs.begin(), epochs.end()), epochs.end());
  return epochs;
}

std::string FormatExport(const pb::ExportReply& reply) {
  std::string epochs;
  for (const uint32_t epoch : reply.epochs()) absl::StrAppend(&epochs, epochs.empty() ? "" : ", ", epoch);
  return absl::StrCat("exported epoch", reply.epochs_size() == 1 ? " " : "s ", epochs, " of job ", reply.job(),
                      " to ", reply.file(), ": ", static_cast<uint64_t>(reply.pages()), " pages, ",
                      FormatBytes(reply.bytes()), absl::StrFormat(" in %.1f s\n", reply.elapsed_s()));
}

}  // namespace

absl::StatusOr<int> RunExport(const CommandContext& context, const ExportArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(const std::string job, ChooseJob(*reader, args.job));
  INCR_ASSIGN_OR_RETURN(const std::vector<uint64_t> epochs, ChooseEpochs(*reader, job, args.epochs));
  INCR_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Open(args.file));
  pb::ExportReply reply;
  {
    ProgressLine line("export");
    INCR_ASSIGN_OR_RETURN(const ExportResult result,
                          ExportEpochs(*reader, job, epochs, output.fd(), output.name(),
                                       [&](uint64_t pages, uint64_t of) {
                                         line.Show(4096.0 * pages, 4096.0 * of, "");
                                       }));
    INCR_RETURN_IF_ERROR(output.Finish());
    reply.set_pages(result.pages);
    reply.set_bytes(result.bytes);
    reply.set_elapsed_s(line.elapsed_s());
  }
  reply.set_job(job);
  for (const uint64_t epoch : epochs) reply.add_epochs(epoch);
  reply.set_file(CleanText(args.file));
  INCR_RETURN_IF_ERROR(PrintBeside(args.file, context, reply, FormatExport(reply)));
  return kExitOk;
}

}  // namespace incr
