#include "cli/job.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/json.h"

namespace incr {
namespace {

// Epochs that a slow one has delayed are made up for, but not many: they would be as good as the same.
constexpr int64_t kMaxBacklogUs = 100'000;
// A failing epoch must not be retried in a hot loop, however short the interval.
constexpr int64_t kMinRetryUs = 100'000;
constexpr char kStopped[] = "stopped";

bool IsReadable(int fd) {
  pollfd poll_fd{fd, POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) > 0;
}

pb::EpochReply ReplyOf(const EpochResult& result, const std::string& job) {
  pb::EpochReply reply;
  reply.set_job(job);
  reply.set_epoch(static_cast<uint32_t>(result.record.epoch()));
  reply.set_pid(result.record.pid());
  reply.set_tracker(result.record.tracker());
  for (const std::string& warning : result.warnings) reply.add_warnings(CleanText(warning));
  return reply;
}

// To a client these two say "no daemon" and "the daemon went away", and it would ask again.
absl::Status OfSession(const absl::Status& status) {
  const bool says_other = absl::IsUnavailable(status) || absl::IsAborted(status);
  return says_other ? absl::InternalError(status.message()) : status;
}

}  // namespace

Job::Job(Settings settings)
    : settings_(std::move(settings)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  INCR_CHECK(wake_.ok());
  {
    absl::MutexLock lock(&mutex_);
    status_.set_job(settings_.name);
    status_.set_pid(settings_.pid);
    status_.set_command(CleanText(settings_.command));
    status_.set_interval_s(settings_.interval_s);
    status_.set_gc_rules(PolicyText(settings_.gc));
    SetState("starting");
  }
  thread_ = std::thread([this] { Run(); });
}

Job::~Job() {
  RequestStop();
  thread_.join();
}

void Job::SetState(const char* state) {
  status_.set_state(state);
  state_since_us_ = MonotonicMicros();
}

void Job::WakeThread() { (void)::eventfd_write(wake_.get(), 1); }

void Job::RequestStop(bool collapse) {
  absl::MutexLock lock(&mutex_);
  stop_ = true;
  collapse_ |= collapse;
  WakeThread();
}

void Job::WaitEnded() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&ended_));
}

absl::StatusOr<pb::EpochReply> Job::WaitUntilTracking() {
  absl::MutexLock lock(&mutex_);
  const auto settled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return tracking_ || ended_;
  };
  mutex_.Await(absl::Condition(&settled));
  if (!tracking_) return end_reason_;
  return first_reply_;
}

absl::StatusOr<pb::EpochReply> Job::TakeEpochNow() {
  Request request;
  absl::MutexLock lock(&mutex_);
  if (ended_) return end_reason_;
  requests_.push_back(&request);
  WakeThread();
  mutex_.Await(absl::Condition(&request.answered));
  return request.result;
}

bool Job::target_exited() {
  absl::MutexLock lock(&mutex_);
  return ended_ || ending_ || (pidfd_.ok() && IsReadable(pidfd_.get()));
}

pb::JobStatus Job::Status() {
  absl::MutexLock lock(&mutex_);
  pb::JobStatus status = status_;
  const int64_t now_us = MonotonicMicros();
  status.set_state_for_s((now_us - state_since_us_) / 1e6);
  status.set_last_error_ago_s(last_error_us_ == 0 ? -1 : (now_us - last_error_us_) / 1e6);
  status.set_next_epoch_in_s(
      next_due_us_ == 0 ? -1 : std::max<int64_t>(0, next_due_us_ - now_us) / 1e6);
  return status;
}

uint64_t Job::epoch_in_use() {
  absl::MutexLock lock(&mutex_);
  return status_.last_epoch() != 0 ? status_.last_epoch() : settings_.restored_epoch;
}

void Job::Run() {
  std::unique_ptr<CheckpointSession> session;
  absl::Status reason = OpenAndTakeFirst(&session);
  if (reason.ok()) reason = TrackUntilEnd(*session);
  {
    absl::MutexLock lock(&mutex_);
    // A stop that was asked for is no exit: its name and process are free only when all is done.
    ending_ = !reason.ok() && !stop_;
    pidfd_.reset();
  }
  if (session != nullptr && session->target_alive()) EndTracking(*session);
  session.reset();
  End(std::move(reason));
}

void Job::EndTracking(CheckpointSession& session) {
  bool collapse;
  {
    absl::MutexLock lock(&mutex_);
    collapse = collapse_ || settings_.collapse_on_stop;
  }
  const HugePageCount count = session.EndTracking(collapse);
  absl::MutexLock lock(&mutex_);
  NoteHugePages(count);
}

void Job::NoteHugePages(const HugePageCount& count) {
  status_.set_huge_pages(static_cast<uint32_t>(count.seen));
  status_.set_huge_pages_split(static_cast<uint32_t>(count.split));
  status_.set_huge_pages_collapsed(static_cast<uint32_t>(count.collapsed));
}

absl::Status Job::OpenAndTakeFirst(std::unique_ptr<CheckpointSession>* session) {
  auto opened = settings_.open();
  INCR_RETURN_IF_ERROR(OfSession(opened.status()));
  *session = *std::move(opened);
  {
    absl::MutexLock lock(&mutex_);
    status_.set_tracker((*session)->tracker_name());
    pidfd_ = ScopedFd(::fcntl((*session)->target_pidfd(), F_DUPFD_CLOEXEC, 0));
  }
  pb::EpochReply reply;
  if (settings_.restored_epoch == 0) {
    INCR_ASSIGN_OR_RETURN(reply, TakeEpoch(**session));
  }
  absl::MutexLock lock(&mutex_);
  if (settings_.restored_epoch != 0) {
    reply.set_job(settings_.name);
    reply.set_epoch(static_cast<uint32_t>(settings_.restored_epoch));
    reply.set_pid(settings_.pid);
    reply.set_tracker(status_.tracker());
    status_.set_last_epoch(reply.epoch());
    if (interval_us() > 0) next_due_us_ = MonotonicMicros() + interval_us();
    SetState("tracking");
  }
  first_reply_ = std::move(reply);
  tracking_ = true;
  return absl::OkStatus();
}

absl::Status Job::TrackUntilEnd(CheckpointSession& session) {
  for (;;) {
    switch (WaitForWork(session)) {
      case Wake::kStop:
        return absl::AbortedError(kStopped);
      case Wake::kTargetExited:
        return absl::NotFoundError(absl::StrCat("process ", settings_.pid, " has exited"));
      case Wake::kTakeEpoch:
        // What went wrong is in the status; the next epoch holds what this one would have.
        (void)TakeEpoch(session);
    }
  }
}

Job::Wake Job::WaitForWork(const CheckpointSession& session) {
  for (;;) {
    int64_t due_us;
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return Wake::kStop;
      if (!session.target_alive()) return Wake::kTargetExited;
      if (!requests_.empty()) return Wake::kTakeEpoch;
      due_us = next_due_us_;
    }
    const int64_t left_us = due_us - MonotonicMicros();
    if (due_us != 0 && left_us <= 0) return Wake::kTakeEpoch;
    pollfd fds[] = {{wake_.get(), POLLIN, 0}, {session.target_pidfd(), POLLIN, 0}};
    const timespec timeout{left_us / 1'000'000, left_us % 1'000'000 * 1000};
    const int ready = ::ppoll(fds, 2, due_us == 0 ? nullptr : &timeout, nullptr);
    INCR_CHECK(ready >= 0 || errno == EINTR);
    eventfd_t drained;
    if (ready > 0 && fds[0].revents != 0) (void)::eventfd_read(wake_.get(), &drained);
    if (ready > 0 && fds[1].revents != 0) return Wake::kTargetExited;
  }
}

absl::StatusOr<pb::EpochReply> Job::TakeEpoch(CheckpointSession& session) {
  const int64_t start_us = MonotonicMicros();
  std::vector<Request*> answers;
  {
    absl::MutexLock lock(&mutex_);
    answers.swap(requests_);
    SetState(tracking_ ? "checkpointing" : "starting");
  }
  absl::StatusOr<EpochResult> result = session.TakeEpoch();
  absl::StatusOr<pb::EpochReply> reply;
  if (result.ok()) {
    reply = ReplyOf(*result, settings_.name);
  } else {
    reply = OfSession(result.status());
  }

  absl::MutexLock lock(&mutex_);
  SetState("tracking");
  status_.set_tracker(session.tracker_name());
  NoteHugePages(session.huge_pages());
  // In step with the clock: an epoch that took longer than the interval is made up for, within reason.
  const bool was_due = next_due_us_ != 0 && next_due_us_ <= start_us;
  const int64_t next_us = (was_due ? next_due_us_ : start_us) + interval_us();
  next_due_us_ =
      interval_us() == 0 ? 0 : std::max(next_us, MonotonicMicros() - kMaxBacklogUs);
  if (reply.ok()) {
    LogNewWarnings(*reply);
    status_.set_last_epoch(reply->epoch());
    status_.set_epochs_taken(status_.epochs_taken() + 1);
    last_failed_ = false;
  } else {
    NoteFailure(reply.status());
  }
  for (Request* request : answers) {
    request->result = reply;
    request->answered = true;
  }
  return reply;
}

// Nobody waits for an epoch that the clock asked for. What each epoch says anew is said once.
void Job::LogNewWarnings(const pb::EpochReply& reply) {
  const std::set<std::string> now(reply.warnings().begin(), reply.warnings().end());
  for (const std::string& warning : now) {
    if (tracking_ && last_warnings_.count(warning) == 0) {
      settings_.log(absl::StrCat("job ", settings_.name, ": epoch ", reply.epoch(), ": ", warning));
    }
  }
  last_warnings_ = now;
}

void Job::NoteFailure(const absl::Status& status) {
  const std::string error = CleanText(status.message());
  // A failure that repeats every interval must not fill the disk with its log.
  if (tracking_ && (!last_failed_ || error != status_.last_error())) {
    settings_.log(absl::StrCat("job ", settings_.name, ": epoch failed: ", error));
  }
  last_failed_ = true;
  last_error_us_ = MonotonicMicros();
  status_.set_last_error(error);
  status_.set_epochs_failed(status_.epochs_failed() + 1);
  if (next_due_us_ != 0) next_due_us_ = std::max(next_due_us_, last_error_us_ + kMinRetryUs);
}

void Job::End(absl::Status reason) {
  {
    absl::MutexLock lock(&mutex_);
    SetState("ended");
    next_due_us_ = 0;
    status_.set_end_reason(CleanText(reason.message()));
    end_reason_ = reason.message() == kStopped
                      ? absl::AbortedError(absl::StrCat("job ", settings_.name, " was stopped"))
                      : reason;
  }
  settings_.on_end(this);
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  for (Request* request : requests_) {
    request->result = end_reason_;
    request->answered = true;
  }
  requests_.clear();
}

}  // namespace incr
