#include "cli/gc_keeper.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "cli/fakes.h"
#include "cli/gc_messages.h"

namespace incr {
namespace {

// A store whose gc says what it was asked and goes on until `hold` is over.
class GcStore : public FakeStore {
 public:
  absl::StatusOr<GcResult> CollectGarbage(const GcOptions& options) override {
    {
      absl::MutexLock lock(&mutex_);
      asked_.push_back(options.policy);
      used_ = options.in_use();
    }
    while (hold) {
      INCR_RETURN_IF_ERROR(options.progress({"sweeping", 1, 4}));
      ::usleep(1'000);
    }
    if (fail) return absl::InternalError("no luck");
    return GcResult();
  }
  size_t runs() {
    absl::MutexLock lock(&mutex_);
    return asked_.size();
  }
  std::vector<std::pair<std::string, uint64_t>> used() {
    absl::MutexLock lock(&mutex_);
    return used_;
  }
  std::atomic<bool> hold{false}, fail{false};

 private:
  absl::Mutex mutex_;
  std::vector<GcPolicy> asked_;
  std::vector<std::pair<std::string, uint64_t>> used_;
};

bool Await(const std::function<bool()>& condition) {
  for (const Stopwatch waited; waited.elapsed_us() < 5'000'000; ::usleep(1'000)) {
    if (condition()) return true;
  }
  return false;
}

class GcKeeperTest : public ::testing::Test {
 protected:
  void AddEpochs(uint64_t first, uint64_t last) {
    for (uint64_t epoch = first; epoch <= last; ++epoch) store_.Add("web", epoch, 1);
  }
  std::vector<JobTable::GcView> Jobs() {
    absl::MutexLock lock(&mutex_);
    return jobs_;
  }
  void SetJob(uint64_t keep_last, uint64_t epoch) {
    absl::MutexLock lock(&mutex_);
    JobTable::GcView job{"web", {}, epoch};
    job.policy.keep_last = keep_last;
    jobs_ = {job};
  }
  static pb::GcRequest KeepOne() {
    pb::GcRequest request;
    request.mutable_rules()->set_keep_last(1);
    return request;
  }

  GcStore store_;
  absl::Mutex mutex_;
  std::vector<JobTable::GcView> jobs_;
  GcKeeper keeper_{&store_, [this] { return Jobs(); }, [](const std::string&) {}};
};

TEST_F(GcKeeperTest, ByItselfOnlyWhenEnoughHasPiledUp) {
  AddEpochs(1, 12);
  SetJob(5, 12);  // Seven would go.
  ::usleep(2'500'000);
  EXPECT_EQ(store_.runs(), 0);
}

TEST_F(GcKeeperTest, ByItselfAndAFailureIsInTheStatus) {
  store_.fail = true;
  AddEpochs(1, 20);
  SetJob(5, 20);
  ASSERT_TRUE(Await([&] { return store_.runs() == 1; }));
  pb::StatusReply status;
  status.add_jobs()->set_job("web");
  ASSERT_TRUE(Await([&] {
    keeper_.AddErrors(&status);
    return status.jobs(0).gc_error() == "no luck";
  }));
}

TEST_F(GcKeeperTest, EpochsThatLiveJobsGoOnFromAreInUse) {
  SetJob(0, 7);
  ASSERT_TRUE(keeper_.Collect(KeepOne()).ok());
  EXPECT_EQ(store_.used(), (std::vector<std::pair<std::string, uint64_t>>{{"web", 7}}));
}

TEST_F(GcKeeperTest, ARequestShowsItsProgressAndCanBeStopped) {
  store_.hold = true;
  absl::Status ended;
  std::thread request([&] { ended = keeper_.Collect(KeepOne()).status(); });
  EXPECT_TRUE(Await([&] { return keeper_.Status().step() == "sweeping"; }));
  EXPECT_TRUE(keeper_.Status().running());
  EXPECT_EQ(keeper_.Status().total(), 4);
  keeper_.CancelCollect();
  request.join();
  EXPECT_TRUE(absl::IsCancelled(ended)) << ended;
  EXPECT_FALSE(keeper_.Status().running());
}

TEST_F(GcKeeperTest, TheEndOfTheDaemonEndsGc) {
  store_.hold = true;
  absl::Status ended;
  std::thread request([&] { ended = keeper_.Collect(KeepOne()).status(); });
  EXPECT_TRUE(Await([&] { return keeper_.Status().running(); }));
  keeper_.Stop();
  request.join();
  EXPECT_TRUE(absl::IsUnavailable(ended)) << ended;
  EXPECT_TRUE(absl::IsUnavailable(keeper_.Collect(KeepOne()).status()));
}

TEST(GcMessagesTest, RulesThereAndBackAndWhatIsRefused) {
  GcPolicy policy;
  policy.keep_last = 7;
  policy.keep_within_us = 5'400'000'000;
  policy.keep_daily = 2;
  policy.keep = {3, 9};
  const auto back = PolicyOf(RulesOf(policy));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(PolicyText(*back), PolicyText(policy));
  pb::GcRequest request;
  request.mutable_rules()->set_keep_within_s(std::nan(""));
  EXPECT_TRUE(absl::IsInvalidArgument(GcOptionsOf(request).status()));
  request.mutable_rules()->set_keep_within_s(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(GcOptionsOf(request).status()));
  request.mutable_rules()->set_keep_within_s(60);
  request.set_recompress("gzip");
  EXPECT_TRUE(absl::IsInvalidArgument(GcOptionsOf(request).status()));
  request.set_recompress("zstd");
  request.set_job("a/b");
  EXPECT_TRUE(absl::IsInvalidArgument(GcOptionsOf(request).status()));
}

}  // namespace
}  // namespace incr
