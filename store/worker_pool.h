// worker_pool.h — threads that run what they are given, first come first served.
// Thread-safe. The destructor runs what is queued, then ends the threads.
#ifndef INCR_CKPT_STORE_WORKER_POOL_H_
#define INCR_CKPT_STORE_WORKER_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace incr {

class WorkerPool {
 public:
  // `threads` 0: one per core.
  explicit WorkerPool(int threads);
  static int ThreadsFor(int threads);  // what 0 stands for
  ~WorkerPool();
  void Run(std::function<void()> task);
  // The same, before all that waits.
  void RunNext(std::function<void()> task);

 private:
  void Loop();

  absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_WORKER_POOL_H_
