#include "base/parallel_for.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/signals_blocked.h"

namespace incr {
namespace {

constexpr int64_t kSpinUs = 200;

}  // namespace

ParallelFor::ParallelFor(int helpers) : helpers_(helpers) {}

ParallelFor::~ParallelFor() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

int ParallelFor::HelpersForThisMachine() {
  cpu_set_t cpus;
  if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 1;
  return std::clamp(CPU_COUNT(&cpus) - 1, 0, 7);
}

void ParallelFor::Start() {
  const AllSignalsBlocked blocked;
  while (threads_.size() < static_cast<size_t>(helpers_)) {
    try {
      threads_.emplace_back([this] { Help(); });
    } catch (const std::system_error&) {
      return;
    }
  }
}

// One that is woken on the caller's CPU would take turns with it, although others are idle.
void ParallelFor::KeepOff(int cpu) {
  if (cpu == kept_off_) return;
  kept_off_ = cpu;
  for (std::thread& thread : threads_) placement_.NotOn(cpu, thread.native_handle());
}

void ParallelFor::Run(size_t count, absl::FunctionRef<void(size_t)> work) {
  if (threads_.empty() && count > 1) Start();
  if (count > 1) KeepOff(::sched_getcpu());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    next_ = 0;
    count_ = count;
    work_ = &work;
    nice_ = ::getpriority(PRIO_PROCESS, 0);  // This thread's alone, on Linux.
    ++round_;
  }
  if (count > 1) wake_.notify_all();
  WorkOff(work);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = nullptr;  // Who wakes up only now finds nothing.
  }
  // The others are at their last piece. Who sleeps meanwhile gets the CPU back when others are done with it.
  for (const Stopwatch watch; busy_ != 0 && watch.elapsed_us() < kSpinUs;) __builtin_ia32_pause();
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [this] { return busy_ == 0; });
}

void ParallelFor::WorkOff(absl::FunctionRef<void(size_t)> work) {
  for (size_t i = next_++; i < count_; i = next_++) work(i);
}

void ParallelFor::Help() {
  uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  int nice = nice_ + 1;  // not yet known
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || round_ != seen; });
    if (stop_) return;
    seen = round_;
    if (work_ == nullptr) continue;
    const absl::FunctionRef<void(size_t)> work = *work_;
    ++busy_;
    const bool other_nice = std::exchange(nice, nice_) != nice_;
    lock.unlock();
    if (other_nice) (void)::setpriority(PRIO_PROCESS, 0, nice);
    WorkOff(work);
    lock.lock();
    if (--busy_ == 0) idle_.notify_all();
  }
}

}  // namespace incr
