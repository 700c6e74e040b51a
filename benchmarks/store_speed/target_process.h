// target_process.h — a program of ours to read the memory of. Ended, by its pid, when this goes.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_TARGET_PROCESS_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_TARGET_PROCESS_H_

#include <sys/types.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "benchmarks/store_speed/workload.h"

namespace incr::store_speed {

class TargetProcess {
 public:
  // Its standard input and output are pipes to us.
  static absl::StatusOr<TargetProcess> Start(const std::vector<std::string>& command);
  TargetProcess(TargetProcess&& other) noexcept
      : pid_(std::exchange(other.pid_, 0)), to_(std::move(other.to_)), from_(std::move(other.from_)) {}
  ~TargetProcess();

  // Sends a line and waits for one.
  absl::Status Ask(const std::string& line);
  pid_t pid() const { return pid_; }

  // Its private writable memory while it is stopped: pages that differ from `image` (all, if that is empty) are copied
  // into `workload` and entered into `image`.
  absl::StatusOr<EpochPages> TakePages(Workload* workload, std::map<uint64_t, const uint8_t*>* image) const;

 private:
  TargetProcess(pid_t pid, ScopedFd to, ScopedFd from) : pid_(pid), to_(std::move(to)), from_(std::move(from)) {}

  pid_t pid_ = 0;
  ScopedFd to_, from_;
};

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_TARGET_PROCESS_H_
