#include "cli/gc_messages.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/epoch_rows.h"
#include "cli/job_name.h"
#include "cli/json.h"

namespace incr {
namespace {

constexpr double kLongestWithinS = 100 * 365 * 86400.0;

}  // namespace

pb::GcRules RulesOf(const GcPolicy& policy) {
  pb::GcRules rules;
  rules.set_keep_last(static_cast<uint32_t>(policy.keep_last));
  rules.set_keep_within_s(policy.keep_within_us / 1e6);
  rules.set_keep_hourly(static_cast<uint32_t>(policy.keep_hourly));
  rules.set_keep_daily(static_cast<uint32_t>(policy.keep_daily));
  for (const uint64_t epoch : policy.keep) rules.add_keep(static_cast<uint32_t>(epoch));
  return rules;
}

absl::StatusOr<GcPolicy> PolicyOf(const pb::GcRules& rules) {
  const double within_s = rules.keep_within_s();
  if (!std::isfinite(within_s) || within_s < 0 || within_s > kLongestWithinS) {
    return absl::InvalidArgumentError(
        absl::StrCat("keep_within_s ", within_s, ": must be seconds, at most 100 years"));
  }
  GcPolicy policy;
  policy.keep_last = rules.keep_last();
  policy.keep_within_us = static_cast<int64_t>(std::ceil(within_s * 1e6));
  policy.keep_hourly = rules.keep_hourly();
  policy.keep_daily = rules.keep_daily();
  policy.keep.assign(rules.keep().begin(), rules.keep().end());
  return policy;
}

absl::StatusOr<GcOptions> GcOptionsOf(const pb::GcRequest& request) {
  if (!request.job().empty()) INCR_RETURN_IF_ERROR(CheckJobName(request.job()));
  if (!request.recompress().empty() && request.recompress() != "zstd") {
    return absl::InvalidArgumentError(
        absl::StrCat("recompress ", CleanText(request.recompress()), ": there is zstd"));
  }
  GcOptions options;
  INCR_ASSIGN_OR_RETURN(options.policy, PolicyOf(request.rules()));
  options.job = request.job();
  options.dry_run = request.dry_run();
  options.recompress_zstd = request.recompress() == "zstd";
  return options;
}

pb::GcReply GcReplyOf(const GcResult& result, bool dry_run) {
  pb::GcReply reply;
  reply.set_dry_run(dry_run);
  reply.set_epochs_kept(static_cast<uint32_t>(result.epochs_kept));
  reply.set_epochs_dropped(static_cast<uint32_t>(result.epochs_dropped));
  reply.set_epochs_rewritten(static_cast<uint32_t>(result.epochs_rewritten));
  reply.set_pages_kept(result.pages_kept);
  reply.set_pages_dropped(result.pages_dropped);
  reply.set_packs_deleted(static_cast<uint32_t>(result.packs_deleted));
  reply.set_packs_rewritten(static_cast<uint32_t>(result.packs_rewritten));
  reply.set_bytes_before(result.bytes_before);
  reply.set_bytes_after(result.bytes_after);
  reply.set_bytes_freed(result.bytes_before - std::min(result.bytes_before, result.bytes_after));
  reply.set_packs_waiting(static_cast<uint32_t>(result.packs_waiting));
  reply.set_bytes_waiting(result.bytes_waiting);
  for (const std::string& warning : result.warnings) reply.add_warnings(CleanText(warning));
  for (const GcEpoch& epoch : result.epochs) {
    pb::GcEpochRow* row = reply.add_epochs();
    row->set_job(CleanText(epoch.job));
    row->set_epoch(static_cast<uint32_t>(epoch.epoch));
    row->set_time(FormatTime(epoch.time_us));
    row->set_kept(!epoch.rule.empty());
    row->set_rule(epoch.rule);
  }
  return reply;
}

}  // namespace incr
