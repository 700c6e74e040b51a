#include <memory>
#include <string>

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
#include "dump/core_file.h"
#include "dump/epoch_memory.h"
#include "store/store.h"

namespace incr {
namespace {

std::string FormatCore(const pb::CoreReply& reply) {
  return absl::StrCat("wrote a core of epoch ", reply.epoch(), " of job ", reply.job(), " to ", reply.file(), ": ",
                      reply.threads(), reply.threads() == 1 ? " thread, " : " threads, ",
                      FormatBytes(reply.bytes_written()), absl::StrFormat(" in %.1f s\n", reply.elapsed_s()));
}

}  // namespace

absl::StatusOr<int> RunCore(const CommandContext& context, const CoreArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(const std::string job, ChooseJob(*reader, args.job));
  INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record, ChooseEpoch(*reader, job, args.epoch));
  INCR_ASSIGN_OR_RETURN(const EpochMemory memory, EpochMemory::Open(*reader, job, record.epoch()));
  INCR_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Open(args.file));
  pb::CoreReply reply;
  {
    ProgressLine line("core");
    INCR_ASSIGN_OR_RETURN(
        const CoreResult result,
        WriteCore(memory, output.fd(), output.name(),
                  [&](uint64_t bytes, uint64_t of) { line.Show(static_cast<double>(bytes), static_cast<double>(of), ""); }));
    INCR_RETURN_IF_ERROR(output.Finish());
    reply.set_bytes(static_cast<double>(result.bytes));
    reply.set_bytes_written(static_cast<double>(result.bytes_written));
    reply.set_threads(static_cast<uint32_t>(result.threads));
    reply.set_segments(static_cast<uint32_t>(result.segments));
    for (const std::string& warning : result.warnings) reply.add_warnings(CleanText(warning));
    reply.set_elapsed_s(line.elapsed_s());
  }
  reply.set_job(job);
  reply.set_epoch(static_cast<uint32_t>(record.epoch()));
  reply.set_file(CleanText(args.file));
  PrintWarnings(reply.warnings());
  INCR_RETURN_IF_ERROR(PrintBeside(args.file, context, reply, FormatCore(reply)));
  return kExitOk;
}

}  // namespace incr
