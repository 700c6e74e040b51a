#include <poll.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "process/process_handle.h"
#include "store/store.h"

namespace incr {
namespace {

constexpr int kExitPatienceMs = 10'000;

// So that the store's directory is nobody's when `stop` returns.
void AwaitExit(pid_t daemon) {
  const auto process = ProcessHandle::Open(daemon);
  if (!process.ok()) return;
  pollfd exit{process->pidfd(), POLLIN, 0};
  (void)::poll(&exit, 1, kExitPatienceMs);
}

std::string FormatStopped(const pb::StopReply& reply) {
  if (reply.stopped_size() == 0) return "nothing is tracked\n";
  std::string text = absl::StrCat("stopped ", absl::StrJoin(reply.stopped(), ", "), "\n");
  for (const pb::StoppedJob& job : reply.jobs()) {
    if (job.huge_pages_split() == 0) continue;
    absl::StrAppend(&text, job.job(), ": ", job.huge_pages_split(), " of ", job.huge_pages(),
                    " huge pages were split while it was tracked");
    if (job.huge_pages_collapsed() > 0) {
      absl::StrAppend(&text, ", ", job.huge_pages_collapsed(), " are whole again");
    }
    text += "\n";
  }
  return text;
}

}  // namespace

absl::StatusOr<int> RunStop(const CommandContext& context, const StopArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientOf(store));
  pb::StopRequest request;
  request.set_target(args.target);
  request.set_all(args.all);
  request.set_collapse_on_stop(args.collapse_on_stop);
  absl::StatusOr<pb::StopReply> reply = client.Stop(request);
  if (absl::IsUnavailable(reply.status())) {
    INCR_RETURN_IF_ERROR(StoreReader::Open(store).status());
    if (!args.all) {
      return absl::NotFoundError(
          absl::StrCat(args.target, " is not tracked: no daemon runs on ", store));
    }
    reply = pb::StopReply();
  }
  INCR_RETURN_IF_ERROR(reply.status());
  if (reply->daemon_exits()) AwaitExit(static_cast<pid_t>(reply->daemon_pid()));
  INCR_RETURN_IF_ERROR(Print(context, *reply, FormatStopped(*reply)));
  return kExitOk;
}

}  // namespace incr
