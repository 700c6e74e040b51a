#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/cleanup/cleanup.h"
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

// A file appears whole or not at all; what is no regular file (a pipe, a device) is written as it is.
class Output {
 public:
  static absl::StatusOr<Output> Open(const std::string& path) {
    Output output;
    output.path_ = path;
    if (path == "-") {
      if (::isatty(STDOUT_FILENO)) {
        return absl::InvalidArgumentError("-o -: stdout is a terminal; give a file, or a pipe");
      }
      output.fd_ = ScopedFd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
      return output;
    }
    struct stat info;
    if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
      INCR_ASSIGN_OR_RETURN(output.fd_, OpenFile(path, O_WRONLY));
      return output;
    }
    output.temporary_ = absl::StrCat(path, ".", ::getpid(), ".tmp");
    INCR_ASSIGN_OR_RETURN(output.fd_, OpenFile(output.temporary_, O_WRONLY | O_CREAT | O_EXCL, 0600));
    return output;
  }
  Output(Output&&) = default;
  ~Output() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }
  int fd() const { return fd_.get(); }
  absl::Status Finish() {
    if (temporary_.empty()) return absl::OkStatus();
    if (::fsync(fd_.get()) != 0) return ErrnoStatus(absl::StrCat("fsync(", temporary_, ")"));
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return ErrnoStatus(absl::StrCat("rename(", path_, ")"));
    temporary_.clear();
    const size_t slash = path_.rfind('/');
    return SyncDirectory(slash == std::string::npos ? "." : path_.substr(0, slash + 1));
  }

 private:
  Output() = default;
  std::string path_, temporary_;
  ScopedFd fd_;
};

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
  INCR_ASSIGN_OR_RETURN(Output output, Output::Open(args.file));
  pb::ExportReply reply;
  {
    ProgressLine line("export");
    INCR_ASSIGN_OR_RETURN(const ExportResult result,
                          ExportEpochs(*reader, job, epochs, output.fd(), args.file,
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
