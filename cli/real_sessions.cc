#include "cli/real_sessions.h"

#include <signal.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/check_target.h"
#include "process/process_handle.h"

namespace incr {
namespace {

constexpr int64_t kReleasePatienceUs = 10'000'000;
constexpr useconds_t kReleasePollUs = 2'000;

// A session whose process its restorer still holds: the first epoch waits until it is let go
// (an attempt before that would fail, because the process is traced).
class AdoptedSession : public CheckpointSession {
 public:
  AdoptedSession(std::unique_ptr<CheckpointSession> session, ProcessHandle process)
      : session_(std::move(session)), process_(std::move(process)) {}

  absl::StatusOr<EpochResult> TakeEpoch() override {
    if (!released_) AwaitRelease();
    released_ = true;
    return session_->TakeEpoch();
  }
  bool target_alive() const override { return session_->target_alive(); }
  int target_pidfd() const override { return session_->target_pidfd(); }
  std::string tracker_name() const override { return session_->tracker_name(); }
  HugePageCount huge_pages() const override { return session_->huge_pages(); }
  HugePageCount EndTracking(bool collapse) override { return session_->EndTracking(collapse); }

 private:
  void AwaitRelease() {
    const Stopwatch waited;
    while (process_.alive() && waited.elapsed_us() < kReleasePatienceUs) {
      const auto facts = ReadProcessFacts(process_);
      if (!facts.ok() || facts->tracer == 0) return;
      ::usleep(kReleasePollUs);
    }
  }

  const std::unique_ptr<CheckpointSession> session_;
  const ProcessHandle process_;
  bool released_ = false;
};

// `run` has it wait before its first instruction. We let it go and not `run`, which may have been
// killed meanwhile: it would wait for ever.
class LaunchedSession : public CheckpointSession {
 public:
  LaunchedSession(std::unique_ptr<CheckpointSession> session, ProcessHandle process)
      : session_(std::move(session)), process_(std::move(process)) {}

  absl::StatusOr<EpochResult> TakeEpoch() override {
    absl::StatusOr<EpochResult> result = session_->TakeEpoch();
    if (result.ok() && !released_) {
      released_ = true;
      (void)process_.SendSignal(SIGCONT);  // It may have been killed.
    }
    return result;
  }
  bool target_alive() const override { return session_->target_alive(); }
  int target_pidfd() const override { return session_->target_pidfd(); }
  std::string tracker_name() const override { return session_->tracker_name(); }
  HugePageCount huge_pages() const override { return session_->huge_pages(); }
  HugePageCount EndTracking(bool collapse) override { return session_->EndTracking(collapse); }

 private:
  const std::unique_ptr<CheckpointSession> session_;
  const ProcessHandle process_;
  bool released_ = false;
};

class RealSessions : public SessionFactory {
 public:
  RealSessions(Store* store, std::vector<std::string> agent_command)
      : store_(store), agent_command_(std::move(agent_command)) {}

  absl::StatusOr<std::string> CheckTarget(pid_t pid, pid_t holder) override {
    INCR_ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(pid));
    INCR_ASSIGN_OR_RETURN(ProcessFacts facts, ReadProcessFacts(process));
    if (facts.ppid == ::getpid()) {
      return absl::FailedPreconditionError(
          absl::StrCat("process ", pid, " is a part of incr-ckpt itself"));
    }
    if (holder == 0 || facts.tracer != holder) INCR_RETURN_IF_ERROR(incr::CheckTarget(process));
    return facts.comm;
  }

  absl::StatusOr<ScopedFd> TakeDescriptor(pid_t pid, int fd) override {
    INCR_ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(pid));
    return process.DuplicateFd(fd);
  }

  absl::StatusOr<std::unique_ptr<CheckpointSession>> Start(
      pid_t pid, const TrackingOptions& options) override {
    INCR_ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(pid));
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<CheckpointSession> session,
                          CheckpointSession::Start(store_, pid, ToSessionOptions(options)));
    if (!options.launched) return session;
    return std::make_unique<LaunchedSession>(std::move(session), std::move(process));
  }

  absl::StatusOr<std::unique_ptr<CheckpointSession>> Adopt(
      pid_t pid, uint64_t epoch, ScopedFd uffd, const TrackingOptions& options) override {
    INCR_ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(pid));
    INCR_ASSIGN_OR_RETURN(
        std::unique_ptr<CheckpointSession> session,
        CheckpointSession::Adopt(store_, pid, epoch, std::move(uffd), ToSessionOptions(options)));
    return std::make_unique<AdoptedSession>(std::move(session), std::move(process));
  }

 private:
  SessionOptions ToSessionOptions(const TrackingOptions& options) const {
    SessionOptions session;
    session.job = options.job;
    session.tracker = options.tracker;
    session.allow_unsupported = options.allow_unsupported;
    session.include_dontdump = options.include_dontdump;
    session.save_file_pages = options.save_file_pages;
    session.agent_command = agent_command_;
    if (options.precopy_rounds) session.max_precopy_rounds = static_cast<int>(*options.precopy_rounds);
    return session;
  }

  Store* const store_;
  const std::vector<std::string> agent_command_;
};

}  // namespace

std::unique_ptr<SessionFactory> NewSessionFactory(Store* store,
                                                  std::vector<std::string> agent_command) {
  return std::make_unique<RealSessions>(store, std::move(agent_command));
}

}  // namespace incr
