#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/import_reply.h"
#include "cli/json.h"
#include "cli/progress_line.h"
#include "cli/stop_on_signal.h"
#include "cli/store_location.h"
#include "cli/text_table.h"
#include "store/store.h"

namespace incr {
namespace {

std::string FormatImport(const pb::ImportReply& reply) {
  std::string text;
  for (const pb::ImportedEpoch& epoch : reply.epochs()) {
    absl::StrAppend(&text, "epoch ", epoch.from_epoch(), " of job ", reply.from_job(), " is now epoch ",
                    epoch.epoch(), " of job ", reply.job());
    if (epoch.parent() != 0) absl::StrAppend(&text, ", parent ", epoch.parent());
    text += "\n";
  }
  absl::StrAppend(&text, static_cast<uint64_t>(reply.pages()), " pages, of them ",
                  static_cast<uint64_t>(reply.pages_stored()), " stored, the others were in the store: ",
                  FormatBytes(reply.bytes_read()), absl::StrFormat(" in %.1f s\n", reply.elapsed_s()));
  return text;
}

absl::StatusOr<ScopedFd> OpenInput(const std::string& file) {
  ScopedFd fd(file == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : -1);
  if (file != "-") {
    INCR_ASSIGN_OR_RETURN(fd, OpenFile(file, O_RDONLY));
  }
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("fstat(", file, ")"));
  if (S_ISDIR(info.st_mode)) return absl::FailedPreconditionError(absl::StrCat(file, " is a directory"));
  if (::isatty(fd.get())) {
    return absl::InvalidArgumentError("import -: stdin is a terminal; give a file, or a pipe");
  }
  return fd;
}

// Into a store that nobody else writes to. kFailedPrecondition "locked": somebody does.
absl::StatusOr<pb::ImportReply> ImportHere(const std::string& store, int fd, const pb::ImportRequest& request) {
  INCR_ASSIGN_OR_RETURN(const bool made, MakeStoreDirectory(store));
  // Only an empty directory goes: one that has become a store stays.
  absl::Cleanup undo = [&] { if (made) ::rmdir(store.c_str()); };
  StoreOptions options;
  options.create_if_missing = true;
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<Store> opened, Store::Open(store, options));
  ProgressLine line("import");
  return ImportInto(opened.get(), fd, request, [&](uint64_t bytes) { line.Show(bytes, 0, ""); }, nullptr,
                    &StopOnSignal::stopped);
}

// The daemon takes the descriptor over and reads from it, for as long as we are there.
absl::StatusOr<pb::ImportReply> ImportThere(const std::string& store, const pb::ImportRequest& request) {
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientOf(store));
  Progress progress("import");
  absl::StatusOr<pb::ImportReply> reply = client.Import(request, [&] {
    progress.Tick();
    return !StopOnSignal::stopped();
  });
  if (!absl::IsCancelled(reply.status()) || !StopOnSignal::stopped()) return reply;
  // We have not heard its answer.
  return absl::CancelledError(absl::StrCat("import of ", request.name(), " was stopped; if the daemon had read all of it, "
                                           "its epochs are in the store: incr-ckpt list shows them"));
}

// Whoever has the store does it. A daemon that is starting or exiting has the lock and does not answer; nothing of
// the file has been read then.
absl::StatusOr<pb::ImportReply> ImportAnywhere(const std::string& store, int fd, const pb::ImportRequest& request) {
  constexpr int64_t kPatienceUs = 5'000'000;
  constexpr useconds_t kPauseUs = 100'000;
  const Stopwatch waited;
  for (;; ::usleep(kPauseUs)) {
    absl::StatusOr<pb::ImportReply> here = ImportHere(store, fd, request);
    if (!absl::IsFailedPrecondition(here.status()) || !absl::StrContains(here.status().message(), "is locked by")) {
      return here;
    }
    absl::StatusOr<pb::ImportReply> there = ImportThere(store, request);
    if (!absl::IsUnavailable(there.status())) return there;
    if (StopOnSignal::stopped()) {
      return absl::CancelledError(absl::StrCat("import of ", request.name(), " was stopped; the store is as it was"));
    }
    if (waited.elapsed_us() > kPatienceUs) return here;
  }
}

}  // namespace

absl::StatusOr<int> RunImport(const CommandContext& context, const ImportArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(const ScopedFd input, OpenInput(args.file));
  pb::ImportRequest request;
  request.set_holder_pid(::getpid());
  request.set_holder_fd(input.get());
  request.set_job(args.job);
  request.set_name(args.file == "-" ? "stdin" : CleanText(args.file));
  const StopOnSignal stop;
  const absl::StatusOr<pb::ImportReply> reply = ImportAnywhere(store, input.get(), request);
  if (StopOnSignal::stopped() && absl::IsCancelled(reply.status())) {
    PrintError(std::string(reply.status().message()));
    return 128 + StopOnSignal::signal();
  }
  INCR_RETURN_IF_ERROR(reply.status());
  INCR_RETURN_IF_ERROR(Print(context, *reply, FormatImport(*reply)));
  return kExitOk;
}

}  // namespace incr
