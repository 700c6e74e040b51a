// A restore in bad company: hostile images, a child that is killed while it is built, a restorer
// that is. Never a hang, never a process left behind.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "restore/round_trip.h"

namespace incr {
namespace {

#define ASSERT_OK(expression)                  \
  do {                                         \
    const absl::Status status_ = (expression); \
    ASSERT_TRUE(status_.ok()) << status_;      \
  } while (0)

class RestoreFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(trip_.Start({"rst_blocked"}));
    auto epoch = trip_.Checkpoint();
    ASSERT_OK(epoch.status());
    epoch_ = *epoch;
    pid_ = trip_.pid();
    trip_.Kill();
  }
  bool PidIsFree() const { return ::access(absl::StrCat("/proc/", pid_).c_str(), F_OK) != 0; }
  void ExpectItStillRestores() {
    ASSERT_OK(trip_.Restore(epoch_));
    trip_.Signal(SIGUSR1);
    EXPECT_EQ(trip_.WaitForExit(), 0) << trip_.output();
  }

  RoundTrip trip_;
  uint64_t epoch_ = 0;
  pid_t pid_ = 0;
  std::mt19937_64 random_{7};
};

TEST_F(RestoreFaults, HostileImagesAreRefusedOrBuiltAndLeaveNothing) {
  const std::string whole = trip_.store().epoch(epoch_).image;
  const char* rounds_text = std::getenv("INCR_CKPT_FUZZ_ROUNDS");
  const int rounds = rounds_text != nullptr ? std::atoi(rounds_text) : 200;
  int built = 0, refused_late = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string bytes = whole;
    for (int i = 1 + random_() % 3; i > 0; --i) {
      bytes[random_() % bytes.size()] ^= 1 << (random_() % 8);
    }
    trip_.store().epoch(epoch_).image = bytes;
    const Stopwatch watch;
    auto restored = trip_.RestoreStopped(epoch_);
    EXPECT_LT(watch.elapsed_us(), 5'000'000) << restored.status();
    built += restored.ok();
    refused_late += !restored.ok() && restored.status().message().find("invalid process image") ==
                                          absl::string_view::npos;
    if (restored.ok()) {
      const pid_t pid = (*restored)->pid();
      restored->reset();
      ASSERT_NE(::access(absl::StrCat("/proc/", pid).c_str(), F_OK), 0);
    }
    ASSERT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "round " << round << ": a child is left";
  }
  std::printf("%d built, %d refused by validation, %d refused later\n", built,
              rounds - built - refused_late, refused_late);
  EXPECT_GT(built, 0);
  trip_.store().epoch(epoch_).image = whole;
  ExpectItStillRestores();
}

TEST_F(RestoreFaults, AChildKilledWhileItIsBuiltIsAnErrorNotAHang) {
  int failed = 0;
  for (int round = 0; round < 60; ++round) {
    std::atomic<bool> over{false};
    const int delay_us = static_cast<int>(random_() % 12'000);
    std::thread killer([&] {
      while (PidIsFree() && !over) usleep(50);
      usleep(delay_us);
      if (!over) ::kill(pid_, SIGKILL);
    });
    auto restored = trip_.RestoreStopped(epoch_);
    over = true;
    killer.join();
    failed += !restored.ok();
    if (restored.ok()) restored->reset();
    ASSERT_TRUE(PidIsFree());
    ASSERT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
  }
  std::printf("%d of 60 failed\n", failed);
  EXPECT_GT(failed, 5);  // Else the kill came too late to try anything.
  ExpectItStillRestores();
}

TEST_F(RestoreFaults, ARestorerThatDiesTakesTheHalfBuiltProcessWithIt) {
  int found = 0;
  for (int round = 0; round < 60; ++round) {
    const pid_t restorer = ::fork();
    if (restorer == 0) {
      for (;;) {
        auto restored = trip_.RestoreStopped(epoch_);
        if (!restored.ok() && !absl::IsAlreadyExists(restored.status())) ::_exit(3);
      }
    }
    usleep(1000 + random_() % 20'000);
    ::kill(restorer, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(restorer, &status, 0), restorer);
    ASSERT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
    // An orphan comes to us, the subreaper; it must be dead or dying.
    const int64_t deadline_us = MonotonicMicros() + 5'000'000;
    while (!PidIsFree() && MonotonicMicros() < deadline_us) {
      found += ::waitpid(pid_, &status, WNOHANG) == pid_;
      usleep(100);
    }
    ASSERT_TRUE(PidIsFree()) << "round " << round;
    // 1: it found its parent dead before anything else.
    EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 1) << status;
  }
  std::printf("%d of 60 were half built\n", found);
  EXPECT_GT(found, 5);
  ExpectItStillRestores();
}

}  // namespace
}  // namespace incr
