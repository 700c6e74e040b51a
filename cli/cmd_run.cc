#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/foreground.h"
#include "cli/gc_messages.h"
#include "cli/json.h"
#include "process/stopped_launch.h"

namespace incr {
namespace {

int ExitStatusOfExec(const absl::Status& status) {
  PrintError(std::string(status.message()));
  return absl::IsNotFound(status) ? kExitNoSuchCommand : kExitNotExecutable;
}

// The command rests before its first instruction; returns when its first epoch is durable.
absl::StatusOr<pb::EpochReply> StartTracking(DaemonClient& client, const RunArgs& args,
                                             StoppedLaunch& launch,
                                             const Foreground& foreground) {
  INCR_RETURN_IF_ERROR(launch.LetBeTraced());
  pb::StartRequest request;
  request.set_pid(launch.pid());
  request.set_interval_s(args.tracking.interval_s);
  request.set_job(args.tracking.job);
  request.set_tracker(args.tracking.tracker);
  request.set_allow_unsupported(args.tracking.allow_unsupported);
  if (args.tracking.precopy_rounds) request.set_precopy_rounds(*args.tracking.precopy_rounds);
  request.set_include_dontdump(args.tracking.include_dontdump);
  request.set_save_file_pages(args.tracking.save_file_pages);
  request.set_collapse_on_stop(args.tracking.collapse_on_stop);
  request.set_memory_limit(static_cast<double>(args.tracking.daemon.memory_limit));
  request.set_paranoid(args.tracking.daemon.paranoid);
  if (!args.tracking.gc.empty()) *request.mutable_gc_rules() = RulesOf(args.tracking.gc);
  request.set_launched(true);
  return client.Start(request, [&] { return foreground.PendingEndSignal() == 0; });
}

}  // namespace

absl::StatusOr<int> RunRun(const CommandContext& context, const RunArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  // First, so that a command that cannot be executed leaves no trace.
  absl::StatusOr<StoppedLaunch> launch = StoppedLaunch::Launch(args.command);
  if (!launch.ok()) return ExitStatusOfExec(launch.status());

  absl::StatusOr<DaemonClient> client = ClientWithDaemon(store, args.tracking.daemon);
  if (!client.ok()) {
    PrintError(std::string(client.status().message()));
    return kExitNotTracked;
  }
  // From here to its release the command would stay stopped for ever if a signal killed us.
  Foreground foreground;
  const auto reply = StartTracking(*client, args, *launch, foreground);
  if (const int signal = foreground.PendingEndSignal(); signal != 0 && !reply.ok()) {
    return 128 + signal;
  }
  if (!reply.ok()) {
    PrintError(absl::StrCat("not run, because it cannot be tracked: ", reply.status().message()));
    return kExitNotTracked;
  }
  PrintWarnings(reply->warnings());
  // stdout belongs to the command.
  if (context.json) {
    const std::string text = absl::StrCat(ToJson(*reply), "\n");
    (void)WriteExactly(STDERR_FILENO, text.data(), text.size(), "stderr");
  } else if (::isatty(STDERR_FILENO)) {
    PrintError(absl::StrCat("tracking ", args.command[0], " (pid ", launch->pid(), ") as job ",
                            reply->job(), ": epoch ", reply->epoch(), " durable"));
  }
  const pid_t pid = launch->pid();
  launch->Release();
  return foreground.WaitFor(pid);
}

}  // namespace incr
