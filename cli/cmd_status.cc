#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "cli/text_table.h"
#include "store/store.h"

namespace incr {
namespace {

std::string NextEpoch(const pb::JobStatus& job) {
  if (job.state() != "tracking") {
    return absl::StrCat(job.state(), ", ", FormatSeconds(job.state_for_s()));
  }
  if (job.next_epoch_in_s() < 0) return "on request";
  return absl::StrCat("in ", FormatSeconds(job.next_epoch_in_s()));
}

std::string Interval(const pb::JobStatus& job) {
  return job.interval_s() == 0 ? "-" : absl::StrCat(job.interval_s(), " s");
}

std::string FormatStatus(const pb::StatusReply& reply) {
  if (reply.daemon_pid() == 0) {
    return absl::StrCat("store ", reply.store(), ": nothing is tracked, no daemon runs\n");
  }
  std::string text = absl::StrCat("store ", reply.store(), ": daemon ", reply.daemon_pid(), "\n");
  if (reply.jobs_size() == 0) return text + "nothing is tracked\n";
  TextTable table({"JOB", ">PID", "COMMAND", "TRACKER", ">INTERVAL", ">LAST EPOCH", "NEXT EPOCH",
                   ">FAILED"});
  for (const pb::JobStatus& job : reply.jobs()) {
    table.Add({job.job(), absl::StrCat(job.pid()), job.command(), job.tracker(), Interval(job),
               job.last_epoch() == 0 ? "-" : absl::StrCat(job.last_epoch()), NextEpoch(job),
               absl::StrCat(job.epochs_failed())});
  }
  text += table.Format();
  for (const pb::JobStatus& job : reply.jobs()) {
    if (job.huge_pages_split() == 0) continue;
    absl::StrAppend(&text, job.job(), ": ", job.huge_pages_split(), " of ", job.huge_pages(),
                    " huge pages were split while it was tracked\n");
  }
  for (const pb::JobStatus& job : reply.jobs()) {
    if (!job.gc_rules().empty()) absl::StrAppend(&text, job.job(), ": gc ", job.gc_rules(), "\n");
    if (!job.gc_error().empty()) {
      absl::StrAppend(&text, job.job(), ": last gc failed: ", job.gc_error(), "\n");
    }
  }
  for (const pb::JobStatus& job : reply.jobs()) {
    if (job.last_error().empty()) continue;
    absl::StrAppend(&text, job.job(), ": last error, ", FormatSeconds(job.last_error_ago_s()),
                    " ago: ", job.last_error(), "\n");
  }
  return text;
}

// A first start makes the store while we look.
constexpr int64_t kMakingPatienceUs = 500'000;
constexpr useconds_t kMakingPauseUs = 20'000;

// Absent, or an empty directory: a first `start` would make a store of it.
absl::StatusOr<bool> IsUnborn(const std::string& store) {
  struct stat found;
  if (::lstat(store.c_str(), &found) != 0) {
    if (errno == ENOENT) return true;
    return ErrnoStatus(store);
  }
  if (!S_ISDIR(found.st_mode)) return false;
  std::error_code error;
  const bool empty = std::filesystem::is_empty(store, error);
  if (error) return ErrnoStatus(error.value(), store);
  return empty;
}

absl::StatusOr<pb::StatusReply> StatusOnce(const std::string& store) {
  pb::StatusReply idle;
  idle.set_store(CleanText(store));
  INCR_ASSIGN_OR_RETURN(const bool unborn, IsUnborn(store));
  if (unborn) return idle;
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientOf(store));
  absl::StatusOr<pb::StatusReply> reply = client.Status();
  // Nobody there, or it was killed while it answered: no daemon runs.
  if (!absl::IsUnavailable(reply.status()) && !absl::IsAborted(reply.status())) return reply;
  INCR_RETURN_IF_ERROR(StoreReader::Open(store).status());
  return idle;
}

}  // namespace

absl::StatusOr<int> RunStatus(const CommandContext& context, const StatusArgs&) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  const Stopwatch waited;
  absl::StatusOr<pb::StatusReply> reply = StatusOnce(store);
  while (absl::IsFailedPrecondition(reply.status()) && waited.elapsed_us() < kMakingPatienceUs) {
    ::usleep(kMakingPauseUs);
    reply = StatusOnce(store);
  }
  INCR_RETURN_IF_ERROR(reply.status());
  INCR_RETURN_IF_ERROR(Print(context, *reply, FormatStatus(*reply)));
  return kExitOk;
}

}  // namespace incr
