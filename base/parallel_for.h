// parallel_for.h — a few threads that wait for work of the kind "do this for 0 to n-1".
//
// The caller works too. The others sleep in between, keep off the caller's CPU, and take no signals: those are the
// process's own business. Run() is for one thread at a time.
#ifndef INCR_CKPT_BASE_PARALLEL_FOR_H_
#define INCR_CKPT_BASE_PARALLEL_FOR_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/cpu_placement.h"

namespace incr {

class ParallelFor {
 public:
  // `helpers` threads beside the caller's. They are started by the first Run(). A thread that cannot be
  // started is done without.
  explicit ParallelFor(int helpers);
  ParallelFor(const ParallelFor&) = delete;
  ParallelFor& operator=(const ParallelFor&) = delete;
  ~ParallelFor();

  // One helper for each other CPU that this thread may use, at most 7.
  static int HelpersForThisMachine();

  // The helpers take on the caller's nice value, if that is allowed.
  // Returns when work(0) to work(count - 1) have all returned; each is called once, by any of the threads.
  void Run(size_t count, absl::FunctionRef<void(size_t)> work);

 private:
  void Start();
  void KeepOff(int cpu);
  void Help();
  void WorkOff(absl::FunctionRef<void(size_t)> work);

  const int helpers_;
  const CpuPlacement placement_;
  int kept_off_ = -1;  // this CPU
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  const absl::FunctionRef<void(size_t)>* work_ = nullptr;
  uint64_t round_ = 0;
  std::atomic<int> busy_{0};  // helpers in this round's work; grows under the mutex only
  bool stop_ = false;
  size_t count_ = 0;
  int nice_ = 0;  // of this round's caller
  std::atomic<size_t> next_{0};
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_PARALLEL_FOR_H_
