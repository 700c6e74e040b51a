// job_table.h — the live jobs of one daemon: what each API call does, and when the daemon
// may go.
//
// One job per name and one per pid. When the last job has ended and nobody asks for a new one for a
// grace period, the table closes: from then on a start is refused with kUnavailable, which
// tells the client to start another daemon, so that none is ever lost.
//
// Thread-safe.
#ifndef INCR_CKPT_CLI_JOB_TABLE_H_
#define INCR_CKPT_CLI_JOB_TABLE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cli/job.h"
#include "cli/session_factory.h"
#include "proto/control.pb.h"

namespace incr {

class JobTable {
 public:
  // `factory` outlives the table.
  JobTable(SessionFactory* factory, std::function<void(const std::string&)> log);
  ~JobTable();  // Stops what still runs.
  JobTable(const JobTable&) = delete;

  // Returns when the first epoch is durable. kAlreadyExists names the job that has the pid
  // or the name.
  absl::StatusOr<pb::EpochReply> Start(const pb::StartRequest& request);

  // `caller` is vouched for by the kernel and must be request.holder_pid.
  absl::StatusOr<pb::EpochReply> Adopt(const pb::AdoptRequest& request, pid_t caller);

  absl::StatusOr<pb::EpochReply> Checkpoint(const pb::CheckpointRequest& request);

  // Returns when the jobs have ended; an epoch in progress is finished first.
  absl::StatusOr<pb::StopReply> Stop(const pb::StopRequest& request);

  // `jobs` and `ended_jobs`.
  pb::StatusReply Status();

  // What gc must know of a live job.
  struct GcView {
    std::string job;
    GcPolicy policy;
    uint64_t epoch_in_use = 0;  // the last one taken; 0: none yet
  };
  std::vector<GcView> ForGc();

  // Returns when the table has closed: no job, none ever started for `first_grace`, or for
  // `grace` after the last one ended, or stopped, or RequestShutdown.
  void RunUntilIdle(absl::Duration first_grace, absl::Duration grace);

  // Ends all jobs and closes. May be called from any thread.
  void RequestShutdown();

 private:
  using JobPtr = std::shared_ptr<Job>;

  absl::StatusOr<pb::EpochReply> Launch(Job::Settings settings);
  // Waits for jobs whose process has exited; otherwise they are in the way.
  absl::Status MakeRoom(const std::string& name, pid_t pid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  JobPtr FindConflict(const std::string& name, pid_t pid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<JobPtr> Find(const std::string& target);
  void OnEnd(Job* job);
  void JoinEnded();

  SessionFactory* const factory_;
  const std::function<void(const std::string&)> log_;

  absl::Mutex mutex_;
  std::map<std::string, JobPtr> jobs_ ABSL_GUARDED_BY(mutex_);
  std::vector<JobPtr> to_join_ ABSL_GUARDED_BY(mutex_);
  std::deque<pb::JobStatus> ended_ ABSL_GUARDED_BY(mutex_);
  bool had_jobs_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_JOB_TABLE_H_
