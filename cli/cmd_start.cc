#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/gc_messages.h"

namespace incr {

absl::StatusOr<int> RunStart(const CommandContext& context, const StartArgs& args) {
  // Before anything is made: a start that cannot be leaves no trace.
  INCR_RETURN_IF_ERROR(CheckMayTrack(args.pid));
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientWithDaemon(store, args.tracking.daemon));
  pb::StartRequest request;
  request.set_pid(args.pid);
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
  absl::StatusOr<pb::EpochReply> reply;
  {
    Progress progress(absl::StrCat("first epoch of process ", args.pid));
    reply = client.Start(request, [&] {
      progress.Tick();
      return true;
    });
  }
  INCR_RETURN_IF_ERROR(reply.status());
  PrintWarnings(reply->warnings());
  INCR_RETURN_IF_ERROR(Print(
      context, *reply,
      absl::StrCat("tracking ", CommandOf(args.pid), " (pid ", args.pid, ") as job ", reply->job(),
                   ": epoch ", reply->epoch(), " durable\n")));
  return kExitOk;
}

}  // namespace incr
