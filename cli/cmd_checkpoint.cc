#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "store/store.h"

namespace incr {

absl::StatusOr<int> RunCheckpoint(const CommandContext& context, const CheckpointArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientOf(store));
  pb::CheckpointRequest request;
  request.set_target(args.target);
  absl::StatusOr<pb::EpochReply> reply;
  {
    Progress progress(absl::StrCat("epoch of ", args.target));
    reply = client.Checkpoint(request, [&] {
      progress.Tick();
      return true;
    });
  }
  if (absl::IsUnavailable(reply.status())) {
    INCR_RETURN_IF_ERROR(StoreReader::Open(store).status());
    return absl::NotFoundError(
        absl::StrCat(args.target, " is not tracked: no daemon runs on ", store));
  }
  INCR_RETURN_IF_ERROR(reply.status());
  PrintWarnings(reply->warnings());
  INCR_RETURN_IF_ERROR(Print(context, *reply, absl::StrCat(reply->epoch(), "\n")));
  return kExitOk;
}

}  // namespace incr
