// job.h — one tracked process: a thread that owns its CheckpointSession.
//
//   starting -> tracking <-> checkpointing -> ended
//
// The thread takes an epoch every `interval_s` (counted from start to start; a slow epoch delays
// the next, none pile up) and on request, and ends when it is told to, when the first epoch
// fails, or as soon as the process exits. A later epoch that fails is remembered and
// the next one is tried in its turn.
//
// Thread-safe; the destructor must not run on the job's own thread.
#ifndef INCR_CKPT_CLI_JOB_H_
#define INCR_CKPT_CLI_JOB_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/scoped_fd.h"
#include "checkpoint/session.h"
#include "proto/control.pb.h"
#include "store/gc_policy.h"

namespace incr {

class Job {
 public:
  struct Settings {
    std::string name;
    pid_t pid = 0;
    std::string command;
    double interval_s = 0;        // 0: only on request
    bool collapse_on_stop = false;
    uint64_t restored_epoch = 0;  // not 0: adopted, needs no first epoch
    GcPolicy gc;                  // empty: epochs are not dropped by themselves
    // Runs on the job's thread.
    std::function<absl::StatusOr<std::unique_ptr<CheckpointSession>>()> open;
    // The session is gone; last call on the job's thread before those who wait are told.
    std::function<void(Job*)> on_end;
    std::function<void(const std::string&)> log;
  };

  explicit Job(Settings settings);
  ~Job();  // Stops and waits.
  Job(const Job&) = delete;

  const std::string& name() const { return settings_.name; }
  pid_t pid() const { return settings_.pid; }

  // Returns when the first epoch is durable (adopted: when the session stands), or the error
  // that ended the job.
  absl::StatusOr<pb::EpochReply> WaitUntilTracking();

  // An epoch whose moment is after this call, durable. Callers that wait together share one.
  absl::StatusOr<pb::EpochReply> TakeEpochNow();

  // Ends after the epoch in progress, if any. `collapse`: as if it had been started with that.
  void RequestStop(bool collapse = false);
  void WaitEnded();

  // The process is gone, the job ends by itself.
  bool target_exited();

  pb::JobStatus Status();

  const GcPolicy& gc_policy() const { return settings_.gc; }
  // Which the next one is relative to, from before the session looks at it. 0: none.
  uint64_t epoch_in_use();

 private:
  enum class Wake { kStop, kTargetExited, kTakeEpoch };

  void Run();
  absl::Status OpenAndTakeFirst(std::unique_ptr<CheckpointSession>* session);
  absl::Status TrackUntilEnd(CheckpointSession& session);
  Wake WaitForWork(const CheckpointSession& session);
  absl::StatusOr<pb::EpochReply> TakeEpoch(CheckpointSession& session);
  void LogNewWarnings(const pb::EpochReply& reply);
  void NoteFailure(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndTracking(CheckpointSession& session);
  void NoteHugePages(const HugePageCount& count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(absl::Status reason);
  void SetState(const char* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WakeThread();
  int64_t interval_us() const { return static_cast<int64_t>(settings_.interval_s * 1e6); }

  const Settings settings_;
  ScopedFd wake_;  // eventfd

  absl::Mutex mutex_;
  pb::JobStatus status_ ABSL_GUARDED_BY(mutex_);
  int64_t state_since_us_ ABSL_GUARDED_BY(mutex_) = 0;
  ScopedFd pidfd_ ABSL_GUARDED_BY(mutex_);
  bool tracking_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;  // its session is being taken down
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool collapse_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_reason_ ABSL_GUARDED_BY(mutex_);
  int64_t next_due_us_ ABSL_GUARDED_BY(mutex_) = 0;  // monotonic; 0: none

  // An epoch answers all that asked before it began. Each lives on its caller's stack.
  struct Request {
    bool answered = false;
    absl::StatusOr<pb::EpochReply> result;
  };
  std::vector<Request*> requests_ ABSL_GUARDED_BY(mutex_);
  pb::EpochReply first_reply_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> last_warnings_;
  bool last_failed_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t last_error_us_ ABSL_GUARDED_BY(mutex_) = 0;  // monotonic; 0: none

  std::thread thread_;  // last: starts when all else stands
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_JOB_H_
