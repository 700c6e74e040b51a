#include "cli/job_table.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "cli/gc_messages.h"
#include "cli/job_name.h"
#include "cli/json.h"

namespace incr {
namespace {

constexpr size_t kEndedJobsKept = 8;
constexpr double kMaxIntervalS = 1e8;  // three years
constexpr uint32_t kMaxPrecopyRounds = 100;

absl::Status CheckInterval(double interval_s) {
  if (std::isfinite(interval_s) && interval_s >= 0 && interval_s <= kMaxIntervalS) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("interval_s ", interval_s,
                                                 ": must be 0 (only on request) or seconds"));
}

// What both kinds of request say.
template <typename Request>
TrackingOptions OptionsOf(const Request& request, const std::string& job) {
  TrackingOptions options;
  options.job = job;
  options.tracker = request.tracker();
  options.allow_unsupported = request.allow_unsupported();
  options.include_dontdump = request.include_dontdump();
  options.save_file_pages = request.save_file_pages();
  return options;
}

}  // namespace

JobTable::JobTable(SessionFactory* factory, std::function<void(const std::string&)> log)
    : factory_(factory), log_(std::move(log)) {}

JobTable::~JobTable() {
  RequestShutdown();
  RunUntilIdle(absl::ZeroDuration(), absl::ZeroDuration());
}

absl::StatusOr<pb::EpochReply> JobTable::Start(const pb::StartRequest& request) {
  INCR_RETURN_IF_ERROR(CheckInterval(request.interval_s()));
  if (!request.job().empty()) INCR_RETURN_IF_ERROR(CheckJobName(request.job()));
  const pid_t pid = static_cast<pid_t>(request.pid());
  if (pid <= 0) return absl::InvalidArgumentError(absl::StrCat("pid ", pid, " is no pid"));
  if (request.precopy_rounds() > kMaxPrecopyRounds) {
    return absl::InvalidArgumentError(absl::StrCat("--precopy-rounds ", request.precopy_rounds(),
                                                   ": at most ", kMaxPrecopyRounds));
  }
  INCR_ASSIGN_OR_RETURN(std::string command, factory_->CheckTarget(pid, 0));

  Job::Settings settings;
  settings.name = request.job().empty() ? DefaultJobName(command, pid) : request.job();
  settings.pid = pid;
  settings.command = command;
  settings.interval_s = request.interval_s();
  settings.collapse_on_stop = request.collapse_on_stop();
  INCR_ASSIGN_OR_RETURN(settings.gc, PolicyOf(request.gc_rules()));
  TrackingOptions options = OptionsOf(request, settings.name);
  options.launched = request.launched();
  if (request.has_precopy_rounds()) options.precopy_rounds = request.precopy_rounds();
  settings.open = [this, pid, options = std::move(options)] {
    return factory_->Start(pid, options);
  };
  return Launch(std::move(settings));
}

absl::StatusOr<pb::EpochReply> JobTable::Adopt(const pb::AdoptRequest& request, pid_t caller) {
  INCR_RETURN_IF_ERROR(CheckInterval(request.interval_s()));
  INCR_RETURN_IF_ERROR(CheckJobName(request.job()));
  const pid_t pid = static_cast<pid_t>(request.pid());
  const pid_t holder = static_cast<pid_t>(request.holder_pid());
  if (pid <= 0 || request.epoch() == 0) {
    return absl::InvalidArgumentError("adopt: pid and epoch must be given");
  }
  if (holder != caller) {
    return absl::PermissionDeniedError(
        absl::StrCat("adopt: holder_pid is ", holder, ", but process ", caller, " asks"));
  }
  INCR_ASSIGN_OR_RETURN(std::string command, factory_->CheckTarget(pid, holder));
  auto uffd = std::make_shared<ScopedFd>();
  if (request.holder_uffd() >= 0) {
    INCR_ASSIGN_OR_RETURN(*uffd, factory_->TakeDescriptor(holder, request.holder_uffd()));
  }
  Job::Settings settings;
  settings.name = request.job();
  settings.pid = pid;
  settings.command = command;
  settings.interval_s = request.interval_s();
  settings.collapse_on_stop = request.collapse_on_stop();
  settings.restored_epoch = request.epoch();
  settings.open = [this, pid, uffd, epoch = request.epoch(),
                   options = OptionsOf(request, settings.name)] {
    return factory_->Adopt(pid, epoch, std::move(*uffd), options);
  };
  return Launch(std::move(settings));
}

absl::StatusOr<pb::EpochReply> JobTable::Launch(Job::Settings settings) {
  JobPtr job;
  {
    absl::MutexLock lock(&mutex_);
    INCR_RETURN_IF_ERROR(MakeRoom(settings.name, settings.pid));
    if (closing_) return absl::UnavailableError("the daemon is exiting");
    settings.log = log_;
    settings.on_end = [this](Job* ended) { OnEnd(ended); };
    log_(absl::StrCat("job ", settings.name, ": pid ", settings.pid, " (",
                      CleanText(settings.command), "), every ", settings.interval_s, " s"));
    const std::string name = settings.name;
    // Its thread's first look at this table waits for our lock.
    job = std::make_shared<Job>(std::move(settings));
    jobs_[name] = job;
    had_jobs_ = true;
  }
  return job->WaitUntilTracking();
}

absl::Status JobTable::MakeRoom(const std::string& name, pid_t pid) {
  while (JobPtr other = FindConflict(name, pid)) {
    if (!other->target_exited()) {
      if (other->pid() == pid) {
        return absl::AlreadyExistsError(
            absl::StrCat("process ", pid, " is already tracked as job ", other->name()));
      }
      return absl::AlreadyExistsError(absl::StrCat("job ", name, " already tracks process ",
                                                   other->pid(), ": choose another --job name"));
    }
    mutex_.Unlock();
    other->WaitEnded();
    mutex_.Lock();
  }
  return absl::OkStatus();
}

JobTable::JobPtr JobTable::FindConflict(const std::string& name, pid_t pid) {
  for (const auto& [other, job] : jobs_) {
    if (job->pid() == pid) return job;
  }
  const auto found = jobs_.find(name);
  return found == jobs_.end() ? nullptr : found->second;
}

absl::StatusOr<JobTable::JobPtr> JobTable::Find(const std::string& target) {
  absl::MutexLock lock(&mutex_);
  if (const auto found = jobs_.find(target); found != jobs_.end()) return found->second;
  const std::optional<pid_t> pid = ParsePid(target);
  for (const auto& [name, job] : jobs_) {
    if (pid && job->pid() == *pid) return job;
  }
  const std::string tracked =
      absl::StrJoin(jobs_, ", ", [](std::string* out, const auto& entry) {
        absl::StrAppend(out, entry.first, " (pid ", entry.second->pid(), ")");
      });
  return absl::NotFoundError(absl::StrCat(
      pid ? "process " : "job ", CleanText(target), " is not tracked in this store; ",
      tracked.empty() ? "nothing is" : absl::StrCat("tracked: ", tracked)));
}

absl::StatusOr<pb::EpochReply> JobTable::Checkpoint(const pb::CheckpointRequest& request) {
  INCR_ASSIGN_OR_RETURN(JobPtr job, Find(request.target()));
  INCR_RETURN_IF_ERROR(job->WaitUntilTracking().status());
  return job->TakeEpochNow();
}

absl::StatusOr<pb::StopReply> JobTable::Stop(const pb::StopRequest& request) {
  std::vector<JobPtr> jobs;
  if (request.all()) {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, job] : jobs_) jobs.push_back(job);
  } else {
    INCR_ASSIGN_OR_RETURN(JobPtr job, Find(request.target()));
    jobs.push_back(std::move(job));
  }
  pb::StopReply reply;
  for (const JobPtr& job : jobs) job->RequestStop(request.collapse_on_stop());
  for (const JobPtr& job : jobs) {
    job->WaitEnded();
    reply.add_stopped(job->name());
    const pb::JobStatus status = job->Status();
    pb::StoppedJob* stopped = reply.add_jobs();
    stopped->set_job(job->name());
    stopped->set_huge_pages(status.huge_pages());
    stopped->set_huge_pages_split(status.huge_pages_split());
    stopped->set_huge_pages_collapsed(status.huge_pages_collapsed());
  }
  absl::MutexLock lock(&mutex_);
  if (jobs_.empty()) closing_ = true;
  reply.set_daemon_exits(closing_);
  return reply;
}

pb::StatusReply JobTable::Status() {
  absl::MutexLock lock(&mutex_);
  pb::StatusReply reply;
  for (const auto& [name, job] : jobs_) *reply.add_jobs() = job->Status();
  for (const pb::JobStatus& status : ended_) *reply.add_ended_jobs() = status;
  return reply;
}

std::vector<JobTable::GcView> JobTable::ForGc() {
  absl::MutexLock lock(&mutex_);
  std::vector<GcView> views;
  for (const auto& [name, job] : jobs_) views.push_back({name, job->gc_policy(), job->epoch_in_use()});
  return views;
}

void JobTable::OnEnd(Job* job) {
  const pb::JobStatus status = job->Status();
  log_(absl::StrCat("job ", job->name(), ": ended: ", status.end_reason()));
  absl::MutexLock lock(&mutex_);
  ended_.push_back(status);
  if (ended_.size() > kEndedJobsKept) ended_.pop_front();
  const auto found = jobs_.find(job->name());
  // Not destroyed here: this is its own thread.
  to_join_.push_back(std::move(found->second));
  jobs_.erase(found);
}

void JobTable::JoinEnded() {
  std::vector<JobPtr> joining;  // Destroyed, and so joined, after the lock is gone.
  absl::MutexLock lock(&mutex_);
  joining.swap(to_join_);
}

void JobTable::RunUntilIdle(absl::Duration first_grace, absl::Duration grace) {
  for (;;) {
    JoinEnded();
    absl::MutexLock lock(&mutex_);
    if (jobs_.empty() && to_join_.empty()) {
      if (closing_) return;
      const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return closing_ || !jobs_.empty() || !to_join_.empty();
      };
      if (!mutex_.AwaitWithTimeout(absl::Condition(&woken), had_jobs_ ? grace : first_grace)) {
        closing_ = true;
      }
      continue;
    }
    const auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return jobs_.empty() || !to_join_.empty();
    };
    mutex_.Await(absl::Condition(&work));
  }
}

void JobTable::RequestShutdown() {
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  for (const auto& [name, job] : jobs_) job->RequestStop();
}

}  // namespace incr
