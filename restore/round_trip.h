// round_trip.h — for tests: a target program, checkpoints of it made with the real capture
// code and a plain full read of its memory, and its restores.
//
// The test process is a child subreaper and the parent of every target, original or
// restored, so that pids come free the moment they are reaped.
#ifndef INCR_CKPT_RESTORE_ROUND_TRIP_H_
#define INCR_CKPT_RESTORE_ROUND_TRIP_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "restore/memory_store.h"
#include "restore/restore.h"

namespace incr {

class RoundTrip {
 public:
  RoundTrip();
  ~RoundTrip();  // Kills and reaps what it started.

  // Runs `arguments[0]`, of testdata/targets or an absolute path, with its output appended to
  // output(), and waits for the line `ready` ("": does not).
  absl::Status Start(std::vector<std::string> arguments, const std::string& ready = "ready");

  // Full epoch; the target runs on. Its number. `while_frozen` runs right after the freeze.
  absl::StatusOr<uint64_t> Checkpoint(const std::function<void()>& while_frozen = [] {});

  // kill -9, and waits until pid and tids are free.
  void Kill();

  absl::Status Restore(uint64_t epoch, const RestoreOptions& options = {});
  // As Restore, but does not let it run.
  absl::StatusOr<std::unique_ptr<RestoredProcess>> RestoreStopped(uint64_t epoch,
                                                                  const RestoreOptions& options = {});

  // Takes on what RestoreStopped made.
  void Adopt(const RestoredProcess& restored) { Adopt(restored.pid()); }
  void Adopt(pid_t pid) {
    seen_ = output().size();
    pid_ = pid;
  }

  void Signal(int signal) const;
  // Its exit status (WEXITSTATUS), or 1000 + signal. Kills it after `seconds`: -1.
  int WaitForExit(int seconds = 15);
  // Until a line that begins with `text` has come since the last Start, Restore or call.
  absl::Status WaitForLine(const std::string& text, int seconds = 10);

  pid_t pid() const { return pid_; }
  MemoryStore& store() { return store_; }
  const std::string& directory() const { return directory_; }
  std::string output() const;

 private:
  absl::StatusOr<uint64_t> CheckpointOnce(const std::function<void()>& while_frozen);

  MemoryStore store_;
  std::string directory_;
  pid_t pid_ = 0;
  size_t seen_ = 0;  // bytes of the output that WaitForLine has passed
};

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_ROUND_TRIP_H_
