#include "store/worker_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/signals_blocked.h"

namespace incr {

WorkerPool::WorkerPool(int threads) {
  threads = ThreadsFor(threads);
  const AllSignalsBlocked for_the_workers;
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
  } catch (const std::system_error&) {
    // RLIMIT_NPROC: fewer, or none, and then Run() does the work.
  }
}

int WorkerPool::ThreadsFor(int threads) {
  return threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

WorkerPool::~WorkerPool() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Run(std::function<void()> task) {
  if (threads_.empty()) return task();
  absl::MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
}

void WorkerPool::RunNext(std::function<void()> task) {
  if (threads_.empty()) return task();
  absl::MutexLock lock(&mutex_);
  tasks_.push_front(std::move(task));
}

void WorkerPool::Loop() {
  for (;;) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](WorkerPool* pool) { return pool->stopping_ || !pool->tasks_.empty(); }, this));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace incr
