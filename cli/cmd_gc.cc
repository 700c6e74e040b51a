#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/gc_messages.h"
#include "cli/stop_on_signal.h"
#include "cli/text_table.h"
#include "store/store.h"

namespace incr {
namespace {

// A daemon that is about to begin, or to end, has the store for a moment.
constexpr int64_t kLockPatienceUs = 30'000'000;
constexpr useconds_t kPauseUs = 100'000;

// On a terminal a line that changes, elsewhere a line now and then.
class GcProgressLine {
 public:
  ~GcProgressLine() {
    if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
  }
  void Show(const std::string& step, double done, double total) {
    const int64_t now_us = MonotonicMicros();
    if (now_us < next_us_) return;
    next_us_ = now_us + (terminal_ ? 200'000 : 10'000'000);
    shown_ = true;
    std::string text = absl::StrCat("gc: ", step);
    if (total > 0) absl::StrAppendFormat(&text, ", %.0f %%", std::min(100.0, 100 * done / total));
    std::fputs(terminal_ ? absl::StrCat("\r\033[K", text).c_str()
                         : absl::StrCat("incr-ckpt: ", text, "\n").c_str(),
               stderr);
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  int64_t next_us_ = MonotonicMicros() + 1'000'000;
  bool shown_ = false;
};

absl::Status Stopped() { return absl::CancelledError("gc was stopped; it can be run again"); }

absl::StatusOr<pb::GcReply> AskDaemon(DaemonClient& client, const pb::GcRequest& request,
                                      GcProgressLine& line) {
  absl::StatusOr<pb::GcReply> reply = client.Gc(request, [&] {
    if (StopOnSignal::stopped()) return false;
    if (const auto status = client.GcStatus(); status.ok() && status->running()) {
      line.Show(status->step(), status->done(), status->total());
    }
    return true;
  });
  if (absl::IsCancelled(reply.status()) && StopOnSignal::stopped()) {
    (void)client.StopGc();
    return Stopped();
  }
  return reply;
}

absl::StatusOr<pb::GcReply> CollectHere(const std::string& directory, const pb::GcRequest& request,
                                        GcProgressLine& line) {
  INCR_ASSIGN_OR_RETURN(GcOptions options, GcOptionsOf(request));
  options.progress = [&](const GcProgress& progress) {
    line.Show(progress.step, progress.done, progress.total);
    return StopOnSignal::stopped() ? Stopped() : absl::OkStatus();
  };
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(directory, StoreOptions()));
  INCR_ASSIGN_OR_RETURN(const GcResult result, store->CollectGarbage(options));
  return GcReplyOf(result, request.dry_run());
}

// By the daemon if there is one, which has the store's lock, else by ourselves.
absl::StatusOr<pb::GcReply> Collect(const std::string& store, const pb::GcRequest& request) {
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientOf(store));
  GcProgressLine line;
  for (const Stopwatch waited;; ::usleep(kPauseUs)) {
    absl::StatusOr<pb::GcReply> reply = AskDaemon(client, request, line);
    if (!absl::IsUnavailable(reply.status()) && !absl::IsAborted(reply.status())) return reply;
    reply = CollectHere(store, request, line);
    const bool locked = absl::IsFailedPrecondition(reply.status()) &&
                        absl::StrContains(reply.status().message(), "locked");
    if (!locked || waited.elapsed_us() > kLockPatienceUs) return reply;
    if (StopOnSignal::stopped()) return Stopped();
  }
}

// "1-40" and what becomes of them, a row for all that share their fate.
std::string FormatPlan(const pb::GcReply& reply) {
  TextTable table({"JOB", "EPOCHS", ">COUNT", "PLAN", "RULE"});
  for (int i = 0, end; i < reply.epochs_size(); i = end) {
    const pb::GcEpochRow& first = reply.epochs(i);
    for (end = i + 1; end < reply.epochs_size() && reply.epochs(end).job() == first.job() &&
                      reply.epochs(end).rule() == first.rule();
         ++end) {
    }
    const uint32_t last = reply.epochs(end - 1).epoch();
    table.Add({first.job(),
               end - i == 1 ? absl::StrCat(last) : absl::StrCat(first.epoch(), "-", last),
               absl::StrCat(end - i), first.kept() ? "stays" : "goes",
               first.kept() ? first.rule() : "-"});
  }
  return table.Format();
}

std::string FormatGc(const pb::GcReply& reply) {
  const std::string sizes = absl::StrCat(FormatBytes(reply.bytes_before()), " -> ",
                                         FormatBytes(reply.bytes_after()));
  if (reply.dry_run()) {
    return absl::StrCat(FormatPlan(reply), "would drop ", reply.epochs_dropped(), " epochs and keep ",
                        reply.epochs_kept(), ", freeing about ", FormatBytes(reply.bytes_freed()),
                        " (", sizes, ")\n");
  }
  std::string text =
      absl::StrCat("dropped ", reply.epochs_dropped(), " epochs, kept ", reply.epochs_kept(),
                   "; freed ", FormatBytes(reply.bytes_freed()), " (", sizes, ")\n");
  if (reply.packs_waiting() > 0) {
    absl::StrAppend(&text, FormatBytes(reply.bytes_waiting()),
                    " more are still being read, by a restore for example: run gc again later\n");
  }
  return text;
}

}  // namespace

absl::StatusOr<int> RunGc(const CommandContext& context, const GcArgs& args) {
  INCR_ASSIGN_OR_RETURN(const std::string store, StoreOf(context));
  pb::GcRequest request;
  *request.mutable_rules() = RulesOf(args.policy);
  request.set_job(args.job);
  request.set_dry_run(args.dry_run);
  request.set_recompress(args.recompress);
  const StopOnSignal stop;
  const absl::StatusOr<pb::GcReply> reply = Collect(store, request);
  if (StopOnSignal::stopped() && absl::IsCancelled(reply.status())) {
    PrintError(std::string(reply.status().message()));
    return 128 + StopOnSignal::signal();
  }
  INCR_RETURN_IF_ERROR(reply.status());
  PrintWarnings(reply->warnings());
  INCR_RETURN_IF_ERROR(Print(context, *reply, FormatGc(*reply)));
  return kExitOk;
}

}  // namespace incr
