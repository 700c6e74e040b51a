#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/json.h"
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

// Where it is written to, and what that is called in messages.
struct Output {
  std::optional<ExportFile> file;  // none: stdout
  ScopedFd pipe;
  std::string name;
  int fd() const { return file.has_value() ? file->fd() : pipe.get(); }
};

absl::StatusOr<Output> OpenOutput(const std::string& path) {
  Output output;
  output.name = path;
  if (path != "-") {
    INCR_ASSIGN_OR_RETURN(ExportFile file, ExportFile::Open(path));
    output.name = file.name();
    output.file.emplace(std::move(file));
    return output;
  }
  if (::isatty(STDOUT_FILENO)) {
    return absl::InvalidArgumentError("-o -: stdout is a terminal; give a file, or a pipe");
  }
  output.pipe = ScopedFd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  return output;
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
  INCR_ASSIGN_OR_RETURN(Output output, OpenOutput(args.file));
  pb::ExportReply reply;
  {
    ProgressLine line("export");
    INCR_ASSIGN_OR_RETURN(const ExportResult result,
                          ExportEpochs(*reader, job, epochs, output.fd(), output.name,
                                       [&](uint64_t pages, uint64_t of) {
                                         line.Show(4096.0 * pages, 4096.0 * of, "");
                                       }));
    if (output.file.has_value()) INCR_RETURN_IF_ERROR(output.file->Finish());
    reply.set_pages(result.pages);
    reply.set_bytes(result.bytes);
    reply.set_elapsed_s(line.elapsed_s());
  }
  reply.set_job(job);
  for (const uint64_t epoch : epochs) reply.add_epochs(epoch);
  reply.set_file(CleanText(args.file));
  if (args.file != "-") {
    INCR_RETURN_IF_ERROR(Print(context, reply, FormatExport(reply)));
    return kExitOk;
  }
  // stdout is the file.
  const std::string text = context.json ? ToJson(reply) + "\n" : absl::StrCat("incr-ckpt: ", FormatExport(reply));
  (void)WriteExactly(STDERR_FILENO, text.data(), text.size(), "stderr");
  return kExitOk;
}

}  // namespace incr
