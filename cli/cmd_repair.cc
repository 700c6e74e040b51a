#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "cli/progress_line.h"
#include "store/repair.h"

namespace incr {
namespace {

std::string FormatRepair(const pb::RepairReply& reply) {
  std::string text;
  for (const std::string& sentence : reply.done()) absl::StrAppend(&text, sentence, "\n");
  if (!reply.damaged()) return absl::StrCat(text, "nothing is damaged: the store was left as it is\n");
  for (const pb::RepairDroppedEpoch& epoch : reply.dropped()) {
    absl::StrAppend(&text, reply.dry_run() ? "would be dropped" : "dropped", ": epoch ", epoch.epoch(), " of job ",
                    epoch.job(), ": ", epoch.why(), "\n");
  }
  // An interrupted repair that was only finished, or a count made anew, has looked at no epochs.
  if (reply.epochs_kept() > 0 || reply.dropped_size() > 0 || reply.pages() > 0 || reply.pages_lost() > 0) {
    absl::StrAppend(&text, reply.epochs_kept(), " epochs ", reply.dry_run() ? "would be " : "", "kept, ",
                    reply.dropped_size(), " dropped; ", static_cast<uint64_t>(reply.pages()),
                    " pages are whole, ", static_cast<uint64_t>(reply.pages_lost()), " bodies are damaged\n");
  }
  if (!reply.set_aside().empty()) {
    absl::StrAppend(&text, "what was replaced is in ", reply.set_aside(), "; delete it when you miss nothing\n");
  }
  return text;
}

}  // namespace

absl::StatusOr<int> RunRepair(const CommandContext& context, const RepairArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  RepairOptions options;
  options.dry_run = args.dry_run;
  RepairResult result;
  {
    ProgressLine line("repair");
    options.progress = [&](const std::string& step, uint64_t bytes) { line.Show(bytes, 0, step); };
    absl::StatusOr<RepairResult> repaired = RepairStore(store, options);
    if (absl::IsFailedPrecondition(repaired.status()) &&
        absl::StrContains(repaired.status().message(), "is locked by")) {
      return absl::FailedPreconditionError(absl::StrCat(
          repaired.status().message(), ": stop its jobs first (incr-ckpt stop --all); verify works meanwhile"));
    }
    INCR_ASSIGN_OR_RETURN(result, std::move(repaired));
  }
  pb::RepairReply reply;
  reply.set_damaged(result.damaged);
  reply.set_dry_run(args.dry_run);
  reply.set_store(CleanText(store));
  reply.set_database(result.database);
  reply.set_set_aside(result.set_aside.empty() ? "" : CleanText(absl::StrCat(store, "/", result.set_aside)));
  reply.set_epochs_kept(result.epochs_kept);
  reply.set_pages(result.pages);
  reply.set_pages_lost(result.bodies_lost);
  for (const DroppedEpoch& epoch : result.dropped) {
    pb::RepairDroppedEpoch* row = reply.add_dropped();
    row->set_job(CleanText(epoch.job));
    row->set_epoch(epoch.epoch);
    row->set_why(CleanText(epoch.why));
  }
  for (const std::string& sentence : result.done) reply.add_done(CleanText(sentence));
  for (const std::string& sentence : result.warnings) reply.add_warnings(CleanText(sentence));
  reply.set_jobs_in_doubt(result.jobs_in_doubt);
  PrintWarnings(reply.warnings());
  INCR_RETURN_IF_ERROR(Print(context, reply, FormatRepair(reply)));
  return kExitOk;
}

}  // namespace incr
