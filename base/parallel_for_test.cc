#include "base/parallel_for.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace incr {
namespace {

TEST(ParallelForTest, EachIsDoneOnceAndAllAreDoneOnReturn) {
  for (const int helpers : {0, 1, 3}) {
    ParallelFor pool(helpers);
    for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{1000}}) {
      for (int round = 0; round < 50; ++round) {
        std::vector<std::atomic<int>> done(count);
        pool.Run(count, [&](size_t i) { ++done[i]; });
        for (const auto& times : done) ASSERT_EQ(times, 1);
      }
    }
  }
}

TEST(ParallelForTest, OthersHelp) {
  ParallelFor pool(2);
  std::mutex mutex;
  std::set<pid_t> threads;
  pool.Run(200, [&](size_t) {
    usleep(1000);
    const std::lock_guard<std::mutex> lock(mutex);
    threads.insert(gettid());
  });
  EXPECT_EQ(threads.size(), 3u);
}

TEST(ParallelForTest, HelpersKeepOffTheCallersCpu) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "one CPU";
  const pid_t self = gettid();
  ParallelFor pool(2);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    std::atomic<int> beside{0}, wrong{0};
    pool.Run(30, [&](size_t) {
      usleep(1000);
      if (gettid() == self) return;
      ++beside;
      cpu_set_t mine;
      sched_getaffinity(0, sizeof mine, &mine);
      wrong += CPU_ISSET(cpu, &mine) || CPU_COUNT(&mine) != CPU_COUNT(&all) - 1;
    });
    EXPECT_GT(beside, 0);
    EXPECT_EQ(wrong, 0);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
}

TEST(ParallelForTest, HelpersTakeNoSignals) {
  ParallelFor pool(1);
  const pid_t self = gettid();
  std::atomic<int> open{0};
  pool.Run(50, [&](size_t) {
    usleep(1000);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    if (gettid() != self && !sigismember(&mask, SIGTERM)) ++open;
  });
  EXPECT_EQ(open, 0);
}

}  // namespace
}  // namespace incr
