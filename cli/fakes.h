// fakes.h — for tests of the daemon: sessions whose targets are eventfds, a store that
// only has a lock and a list of epochs.
#ifndef INCR_CKPT_CLI_FAKES_H_
#define INCR_CKPT_CLI_FAKES_H_

#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fcntl.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "cli/session_factory.h"
#include "store/store.h"

namespace incr {

// Everything that fake sessions do and wait for. Thread-safe.
class FakeWorld {
 public:
  // A process. Exit() makes its "pidfd" readable.
  void AddProcess(pid_t pid, const std::string& command) {
    absl::MutexLock lock(&mutex_);
    Process& process = processes_[pid];
    process.command = command;
    process.exit_event = ScopedFd(::eventfd(0, EFD_CLOEXEC));
  }
  void Exit(pid_t pid) {
    absl::MutexLock lock(&mutex_);
    processes_[pid].alive = false;
    (void)::eventfd_write(processes_[pid].exit_event.get(), 1);
  }
  void FailEpochs(const absl::Status& error) {
    absl::MutexLock lock(&mutex_);
    epoch_error_ = error;
  }
  // While held, TakeEpoch does not return.
  void HoldEpochs(bool hold) {
    absl::MutexLock lock(&mutex_);
    held_ = hold;
  }
  void AwaitEpochsBegun(int n) {
    absl::MutexLock lock(&mutex_);
    const auto begun = [&] { return begun_ >= n; };
    mutex_.Await(absl::Condition(&begun));
  }
  int begun() {
    absl::MutexLock lock(&mutex_);
    return begun_;
  }
  // Of the last session.
  TrackingOptions options() {
    absl::MutexLock lock(&mutex_);
    return options_;
  }
  // Sessions that ended by EndTracking(true).
  int collapses() {
    absl::MutexLock lock(&mutex_);
    return collapses_;
  }
  int live_sessions() {
    absl::MutexLock lock(&mutex_);
    return live_sessions_;
  }

 private:
  friend class FakeSession;
  friend class FakeSessionFactory;
  struct Process {
    std::string command;
    bool alive = true;
    ScopedFd exit_event;
  };
  absl::Mutex mutex_;
  std::map<pid_t, Process> processes_;
  std::map<std::string, uint64_t> epochs_;  // by job: the last one
  absl::Status epoch_error_;
  bool held_ = false;
  int begun_ = 0;
  int live_sessions_ = 0;
  int collapses_ = 0;
  TrackingOptions options_;
};

class FakeSession : public CheckpointSession {
 public:
  FakeSession(FakeWorld* world, pid_t pid, std::string job)
      : world_(world), pid_(pid), job_(std::move(job)) {
    absl::MutexLock lock(&world_->mutex_);
    ++world_->live_sessions_;
  }
  ~FakeSession() override {
    absl::MutexLock lock(&world_->mutex_);
    --world_->live_sessions_;
  }

  absl::StatusOr<EpochResult> TakeEpoch() override {
    absl::MutexLock lock(&world_->mutex_);
    ++world_->begun_;
    const auto free = [this] { return !world_->held_; };
    world_->mutex_.Await(absl::Condition(&free));
    if (!world_->processes_[pid_].alive) {
      return absl::NotFoundError(absl::StrCat("process ", pid_, " has exited"));
    }
    if (!world_->epoch_error_.ok()) return world_->epoch_error_;
    EpochResult result;
    result.record.set_job(job_);
    result.record.set_epoch(++world_->epochs_[job_]);
    result.record.set_pid(pid_);
    result.record.set_tracker(tracker_name());
    return result;
  }
  bool target_alive() const override {
    absl::MutexLock lock(&world_->mutex_);
    return world_->processes_[pid_].alive;
  }
  int target_pidfd() const override {
    absl::MutexLock lock(&world_->mutex_);
    return world_->processes_[pid_].exit_event.get();
  }
  std::string tracker_name() const override { return "fake"; }
  HugePageCount huge_pages() const override { return {8, 3, 0}; }
  HugePageCount EndTracking(bool collapse) override {
    absl::MutexLock lock(&world_->mutex_);
    if (!collapse) return {8, 3, 0};
    ++world_->collapses_;
    return {8, 3, 2};
  }

 private:
  FakeWorld* const world_;
  const pid_t pid_;
  const std::string job_;
};

class FakeSessionFactory : public SessionFactory {
 public:
  explicit FakeSessionFactory(FakeWorld* world) : world_(world) {}

  absl::StatusOr<std::string> CheckTarget(pid_t pid, pid_t) override {
    absl::MutexLock lock(&world_->mutex_);
    const auto found = world_->processes_.find(pid);
    if (found == world_->processes_.end() || !found->second.alive) {
      return absl::NotFoundError(absl::StrCat("no process ", pid));
    }
    return found->second.command;
  }
  absl::StatusOr<ScopedFd> TakeDescriptor(pid_t, int fd) override {
    return ScopedFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  }
  absl::StatusOr<std::unique_ptr<CheckpointSession>> Start(
      pid_t pid, const TrackingOptions& options) override {
    {
      absl::MutexLock lock(&world_->mutex_);
      world_->options_ = options;
    }
    return std::make_unique<FakeSession>(world_, pid, options.job);
  }
  absl::StatusOr<std::unique_ptr<CheckpointSession>> Adopt(
      pid_t pid, uint64_t epoch, ScopedFd uffd, const TrackingOptions& options) override {
    {
      absl::MutexLock lock(&world_->mutex_);
      uint64_t& last = world_->epochs_[options.job];
      last = std::max(last, epoch);
      world_->options_ = options;
    }
    return std::make_unique<FakeSession>(world_, pid, options.job);
  }

 private:
  FakeWorld* const world_;
};

class FakeStore : public Store {
 public:
  explicit FakeStore(ScopedFd lock = {}) : lock_(std::move(lock)) {}

  // Creates the directory; "locked" like the real one.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& directory) {
    ::mkdir(directory.c_str(), 0700);
    INCR_ASSIGN_OR_RETURN(ScopedFd lock,
                          OpenFile(absl::StrCat(directory, "/lock"), O_RDWR | O_CREAT, 0600));
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      return absl::FailedPreconditionError(absl::StrCat(directory, " is locked by another"));
    }
    return std::make_unique<FakeStore>(std::move(lock));
  }

  void Add(const std::string& job, uint64_t epoch, uint32_t pid) {
    pb::EpochRecord record;
    record.set_job(job);
    record.set_epoch(epoch);
    record.set_pid(pid);
    record.set_time_us(1'700'000'000'123'456);
    record.mutable_stats()->set_bytes_stored(5'000'000'000);
    record.set_tracker("fake");
    epochs_[job].push_back(record);
  }

  std::vector<std::string> ListJobs() const override {
    std::vector<std::string> jobs;
    for (const auto& [job, records] : epochs_) jobs.push_back(job);
    return jobs;
  }
  absl::StatusOr<std::vector<pb::EpochRecord>> ListEpochs(absl::string_view job) const override {
    const auto found = epochs_.find(std::string(job));
    if (found == epochs_.end()) return absl::NotFoundError("no such job");
    return found->second;
  }
  absl::StatusOr<pb::EpochRecord> GetEpoch(absl::string_view job, uint64_t epoch) const override {
    INCR_ASSIGN_OR_RETURN(auto records, ListEpochs(job));
    for (const auto& record : records) {
      if (record.epoch() == epoch) return record;
    }
    return absl::NotFoundError("no such epoch");
  }
  absl::StatusOr<std::string> ReadImage(absl::string_view, uint64_t) const override {
    return absl::UnimplementedError("fake");
  }
  absl::StatusOr<PageTable> LoadPageTable(absl::string_view, uint64_t) const override {
    return absl::UnimplementedError("fake");
  }
  absl::Status ReadPages(
      absl::Span<const PageId>,
      absl::FunctionRef<absl::Status(size_t, const uint8_t*)>) const override {
    return absl::UnimplementedError("fake");
  }
  absl::StatusOr<std::unique_ptr<EpochWriter>> BeginEpoch(absl::string_view, uint64_t) override {
    return absl::UnimplementedError("fake");
  }

 private:
  ScopedFd lock_;
  std::map<std::string, std::vector<pb::EpochRecord>> epochs_;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_FAKES_H_
