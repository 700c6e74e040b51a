// gc_keeper.h — gc in the daemon: on request, and by itself for jobs that were started with rules.
//
// By itself: when the epochs that a job's rules would drop are a quarter of those they keep (at least
// 8), so that the work per epoch stays small. One gc at a time; a request waits for
// the one that runs.
//
// Thread-safe.
#ifndef INCR_CKPT_CLI_GC_KEEPER_H_
#define INCR_CKPT_CLI_GC_KEEPER_H_

#include <atomic>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "cli/job_table.h"
#include "proto/control.pb.h"
#include "store/store.h"

namespace incr {

class GcKeeper {
 public:
  // `jobs` is called from several threads. All outlive it.
  GcKeeper(Store* store, std::function<std::vector<JobTable::GcView>()> jobs,
           std::function<void(const std::string&)> log);
  ~GcKeeper();

  // kCancelled: CancelCollect() was called. kUnavailable: the daemon is exiting.
  absl::StatusOr<pb::GcReply> Collect(const pb::GcRequest& request);
  // Ends what was asked for by Collect(), at its next step.
  void CancelCollect();

  pb::GcStatusReply Status();
  // What went wrong by itself, into the jobs of `reply`.
  void AddErrors(pb::StatusReply* reply);

  // Ends what runs; later requests are refused.
  void Stop();

 private:
  void Run();
  // Whether enough has piled up.
  bool IsDue(const JobTable::GcView& job);
  void CollectByItself(const JobTable::GcView& job);
  absl::StatusOr<GcResult> RunOne(GcOptions options, bool on_request);

  Store* const store_;
  const std::function<std::vector<JobTable::GcView>()> jobs_;
  const std::function<void(const std::string&)> log_;
  std::atomic<bool> cancelled_{false};  // what was asked for

  absl::Mutex one_;  // held while a gc runs
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  pb::GcStatusReply status_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> errors_ ABSL_GUARDED_BY(mutex_);  // by job
  std::map<std::string, uint64_t> looked_at_;  // by job: the epoch of the last look. Of thread_.
  std::set<std::string> logged_;               // jobs. Of thread_.
  std::thread thread_;  // last: starts when all else stands
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_GC_KEEPER_H_
