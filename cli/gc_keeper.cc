#include "cli/gc_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "cli/gc_messages.h"
#include "cli/json.h"

namespace incr {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);
constexpr uint64_t kFewestEpochs = 8;   // that are worth a gc
constexpr uint64_t kShareOfKept = 4;    // or this part of what stays

}  // namespace

GcKeeper::GcKeeper(Store* store, std::function<std::vector<JobTable::GcView>()> jobs,
                   std::function<void(const std::string&)> log)
    : store_(store), jobs_(std::move(jobs)), log_(std::move(log)) {
  thread_ = std::thread([this] { Run(); });
}

GcKeeper::~GcKeeper() { Stop(); }

void GcKeeper::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void GcKeeper::CancelCollect() { cancelled_ = true; }

pb::GcStatusReply GcKeeper::Status() {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void GcKeeper::AddErrors(pb::StatusReply* reply) {
  absl::MutexLock lock(&mutex_);
  for (pb::JobStatus& job : *reply->mutable_jobs()) {
    if (const auto error = errors_.find(job.job()); error != errors_.end()) {
      job.set_gc_error(error->second);
    }
  }
}

absl::StatusOr<pb::GcReply> GcKeeper::Collect(const pb::GcRequest& request) {
  INCR_ASSIGN_OR_RETURN(GcOptions options, GcOptionsOf(request));
  INCR_ASSIGN_OR_RETURN(const GcResult result, RunOne(std::move(options), /*on_request=*/true));
  return GcReplyOf(result, request.dry_run());
}

absl::StatusOr<GcResult> GcKeeper::RunOne(GcOptions options, bool on_request) {
  if (on_request) cancelled_ = false;
  absl::MutexLock one(&one_);
  absl::Cleanup idle = [this] {
    absl::MutexLock lock(&mutex_);
    status_ = pb::GcStatusReply();
  };
  options.in_use = [this] {
    std::vector<std::pair<std::string, uint64_t>> used;
    for (const JobTable::GcView& job : jobs_()) used.emplace_back(job.job, job.epoch_in_use);
    return used;
  };
  options.progress = [this, on_request](const GcProgress& progress) -> absl::Status {
    absl::MutexLock lock(&mutex_);
    status_.set_running(true);
    status_.set_step(progress.step);
    status_.set_done(progress.done);
    status_.set_total(progress.total);
    if (stop_) return absl::UnavailableError("the daemon is exiting");
    if (on_request && cancelled_) return absl::CancelledError("gc was stopped; it can be run again");
    return absl::OkStatus();
  };
  INCR_RETURN_IF_ERROR(options.progress({"planning"}));
  return store_->CollectGarbage(options);
}

void GcKeeper::Run() {
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), kLookEvery)) return;
    }
    for (const JobTable::GcView& job : jobs_()) {
      if (!job.policy.empty() && IsDue(job)) CollectByItself(job);
    }
  }
}

bool GcKeeper::IsDue(const JobTable::GcView& job) {
  uint64_t& looked_at = looked_at_[job.job];
  if (job.epoch_in_use < looked_at) looked_at = 0;  // Restored to an older one.
  // Listing a long job every second would cost more than the gc.
  if (job.epoch_in_use < looked_at + kFewestEpochs) return false;
  const auto records = store_->ListEpochs(job.job);
  if (!records.ok()) return false;
  std::vector<EpochMoment> moments;
  for (const pb::EpochRecord& record : *records) {
    moments.push_back({record.epoch(), record.time_us()});
  }
  const uint64_t kept = ChooseKept(moments, job.policy).size();
  looked_at = job.epoch_in_use;
  return moments.size() - kept >= std::max(kFewestEpochs, kept / kShareOfKept);
}

void GcKeeper::CollectByItself(const JobTable::GcView& job) {
  GcOptions options;
  options.policy = job.policy;
  options.policy.keep.clear();
  options.job = job.job;
  options.thorough = false;
  options.reader_patience_us = 0;  // The next one finds what a reader holds back.
  // Numbers that are to come are no error here.
  if (const auto records = store_->ListEpochs(job.job); records.ok()) {
    for (const uint64_t epoch : job.policy.keep) {
      if (std::any_of(records->begin(), records->end(),
                      [&](const pb::EpochRecord& r) { return r.epoch() == epoch; })) {
        options.policy.keep.push_back(epoch);
      }
    }
  }
  if (options.policy.empty()) options.policy.keep_last = 1;  // As `keep` alone: the newest stays.
  const auto result = RunOne(std::move(options), /*on_request=*/false);
  if (absl::IsUnavailable(result.status())) return;
  if (result.ok()) {
    // Said once: with short intervals it would fill the disk that gc frees.
    if (logged_.insert(job.job).second) {
      log_(absl::StrCat("job ", job.job, ": first gc dropped ", result->epochs_dropped,
                        " epochs, kept ", result->epochs_kept));
    }
    absl::MutexLock lock(&mutex_);
    errors_.erase(job.job);
    return;
  }
  const std::string error = CleanText(result.status().message());
  absl::MutexLock lock(&mutex_);
  if (errors_[job.job] != error) log_(absl::StrCat("job ", job.job, ": gc failed: ", error));
  errors_[job.job] = error;
}

}  // namespace incr
