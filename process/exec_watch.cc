#include "process/exec_watch.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

#include "base/clock.h"

namespace incr {
namespace {

constexpr int64_t kPatienceUs = 20'000;

// Reaps only what is a zombie and our tracee. Never the leader, whose exit is its parent's to see.
void ReapDeadThreads(pid_t pid) {
  DIR* tasks = opendir(("/proc/" + std::to_string(pid) + "/task").c_str());
  if (tasks == nullptr) return;
  while (const dirent* entry = readdir(tasks)) {
    const pid_t tid = std::atoi(entry->d_name);
    siginfo_t info;
    if (tid != 0 && tid != pid) waitid(P_PID, tid, &info, WEXITED | WNOHANG | __WALL);
  }
  closedir(tasks);
}

}  // namespace

struct ExecWatch::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::atomic<int64_t> entered_us{0};  // 0: not in a seize
};

ExecWatch::ExecWatch(pid_t pid) : shared_(std::make_shared<Shared>()) {
  std::thread([pid, shared = shared_] {
    std::unique_lock lock(shared->mutex);
    while (!shared->done) {
      shared->changed.wait_for(lock, std::chrono::microseconds(kPatienceUs));
      const int64_t entered_us = shared->entered_us;
      if (entered_us != 0 && MonotonicMicros() - entered_us > kPatienceUs) ReapDeadThreads(pid);
    }
  }).detach();
}

ExecWatch::~ExecWatch() {
  const std::lock_guard lock(shared_->mutex);
  shared_->done = true;
  shared_->changed.notify_one();
}

void ExecWatch::Enter() { shared_->entered_us = MonotonicMicros(); }

void ExecWatch::Leave() { shared_->entered_us = 0; }

}  // namespace incr
