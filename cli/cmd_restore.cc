#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/epoch_rows.h"
#include "cli/exit_status.h"
#include "cli/foreground.h"
#include "cli/json.h"
#include "restore/restore.h"
#include "store/store.h"
#include "tracker/write_tracker.h"

namespace incr {
namespace {

// The restored process takes our descriptors 0..2 in place of a terminal or pipe that it had. A
// detached one must not keep ours: whoever reads the other end would wait for its end. A
// file that the user redirected to is meant.
absl::Status ReplaceStdioForDetached() {
  INCR_ASSIGN_OR_RETURN(ScopedFd null, OpenFile("/dev/null", O_RDWR));
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    struct stat stat;
    if (::fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) continue;
    if (::dup2(null.get(), fd) < 0) return ErrnoStatus("dup2(/dev/null)");
  }
  return absl::OkStatus();
}

// Our own stdout and stderr, for as long as 0..2 are lent to the process to restore.
class LentStdio {
 public:
  LentStdio() {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
      saved_[fd] = ScopedFd(::fcntl(fd, F_DUPFD_CLOEXEC, 64));
    }
  }
  ~LentStdio() {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
      if (saved_[fd].ok()) ::dup2(saved_[fd].get(), fd);
    }
  }

 private:
  ScopedFd saved_[3];
};

absl::StatusOr<std::unique_ptr<RestoredProcess>> Build(const StoreReader& reader,
                                                       const pb::EpochRecord& record,
                                                       const RestoreArgs& args,
                                                       const RestoreOptions& options) {
  if (!args.detach) return RestoreEpoch(reader, record.job(), record.epoch(), options);
  LentStdio lent;
  INCR_RETURN_IF_ERROR(ReplaceStdioForDetached());
  return RestoreEpoch(reader, record.job(), record.epoch(), options);
}

// Hands the process, still held by us, to the daemon.
absl::Status TrackAgain(const std::string& store, const pb::EpochRecord& record,
                        const RestoreArgs& args, RestoredProcess& process) {
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientWithDaemon(store));
  const ScopedFd uffd = process.TakeUserfaultfd();
  pb::AdoptRequest request;
  request.set_pid(process.pid());
  request.set_job(record.job());
  request.set_epoch(record.epoch());
  request.set_interval_s(args.tracking.interval_s);
  request.set_tracker(args.tracking.tracker);
  request.set_allow_unsupported(args.tracking.allow_unsupported);
  request.set_include_dontdump(args.tracking.include_dontdump);
  request.set_save_file_pages(args.tracking.save_file_pages);
  request.set_collapse_on_stop(args.tracking.collapse_on_stop);
  request.set_holder_pid(::getpid());
  request.set_holder_uffd(uffd.get());
  return Annotate(client.Adopt(request, nullptr).status(), "cannot track it again");
}

absl::StatusOr<RestoreOptions> OptionsFor(const RestoreArgs& args) {
  RestoreOptions options;
  options.outlives_caller = args.detach;
  if (!args.track) return options;
  std::string why;
  INCR_ASSIGN_OR_RETURN(const std::string tracker, ChooseTracker(args.tracking.tracker, &why));
  options.uffd_features = UffdFeaturesOfTracker(tracker);
  return options;
}

pb::RestoreReply Describe(const pb::EpochRecord& record, const RestoredProcess& process,
                          bool tracked) {
  pb::RestoreReply reply;
  reply.set_job(CleanText(record.job()));
  reply.set_epoch(static_cast<uint32_t>(record.epoch()));
  reply.set_pid(process.pid());
  reply.set_tracked(tracked);
  const pb::Image& image = process.image();
  if (image.processes_size() > 0) {
    reply.set_command(CleanText(image.processes(0).comm()));
    reply.set_command_line(CleanText(image.processes(0).command_line()));
  }
  for (const std::string& warning : image.warnings()) reply.add_warnings(CleanText(warning));
  return reply;
}

}  // namespace

absl::StatusOr<int> RunRestore(const CommandContext& context, const RestoreArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(store));
  INCR_ASSIGN_OR_RETURN(const std::string job, ChooseJob(*reader, args.job));
  INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record, ChooseEpoch(*reader, job, args.epoch));
  INCR_ASSIGN_OR_RETURN(const RestoreOptions options, OptionsFor(args));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<RestoredProcess> process,
                        Build(*reader, record, args, options));
  // On an error from here on `process` is killed before its first instruction.
  if (args.track) INCR_RETURN_IF_ERROR(TrackAgain(store, record, args, *process));
  const pb::RestoreReply reply = Describe(record, *process, args.track);
  const pid_t pid = process->pid();
  PrintWarnings(reply.warnings());
  const std::string line =
      absl::StrCat("restored ", reply.command(), " (pid ", pid, ") to epoch ", reply.epoch(),
                   " of job ", reply.job());
  if (args.detach) {
    INCR_RETURN_IF_ERROR(process->Release());
    INCR_RETURN_IF_ERROR(Print(context, reply, absl::StrCat(line, "\n")));
    return kExitOk;
  }
  // Before the line that says so: from here on signals are the process's.
  Foreground foreground;
  // stdout is the process's now.
  if (context.json) {
    const std::string text = absl::StrCat(ToJson(reply), "\n");
    INCR_RETURN_IF_ERROR(WriteExactly(STDERR_FILENO, text.data(), text.size(), "stderr"));
  } else {
    PrintError(line);
  }
  INCR_RETURN_IF_ERROR(process->Release());
  // All is read: for as long as the process runs, gc need not wait for us.
  reader.reset();
  return foreground.WaitFor(pid);
}

}  // namespace incr
