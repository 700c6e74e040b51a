// gc against a std::map: random epochs, branches, policies and reopenings; every epoch that a policy
// keeps must be the same afterwards, byte for byte, and no other may be left.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "store/remake_index.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

struct ModelEpoch {
  ModelTable table;
  std::string image;
  int64_t time_us = 0;
};
using ModelJob = std::map<uint64_t, ModelEpoch>;

class GcModelTest : public ::testing::TestWithParam<int> {
 protected:
  GcModelTest() : random_(GetParam()) { Reopen(); }

  uint64_t Pick(uint64_t bound) { return random_() % bound; }

  void Reopen() {
    store_.reset();
    StoreOptions options;
    options.create_if_missing = true;
    options.full_table_every = 1 + Pick(9);
    options.pack_bytes = (1 + Pick(3)) << 20;
    options.workers = 1 + Pick(3);
    options.paranoid = Pick(5) == 0;
    options.max_known_pages = Pick(3) == 0 ? 50 : 1 << 20;
    auto store = Store::Open(path_, options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void OneEpoch() {
    const std::string job = Pick(4) == 0 ? "second" : "first";
    ModelJob& epochs = jobs_[job];
    uint64_t parent = epochs.empty() ? 0 : epochs.rbegin()->first;
    if (!epochs.empty() && Pick(6) == 0) {
      parent = Pick(5) == 0 ? 0 : std::next(epochs.begin(), Pick(epochs.size()))->first;
    }
    auto writer = store_->BeginEpoch(job, parent);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_GT((*writer)->epoch(), epochs.empty() ? 0 : epochs.rbegin()->first);
    ModelEpoch model = parent == 0 ? ModelEpoch() : epochs[parent];
    const int calls = Pick(3) == 0 ? Pick(60) : Pick(8);
    for (int call = 0; call < calls; ++call) {
      const PageRange range{Pick(600), Pick(5) == 0 ? Pick(200) : 1 + Pick(3)};
      if (Pick(4) == 0) {
        ASSERT_TRUE((*writer)->AddGone(0, range).ok());
        model.table.erase(model.table.lower_bound({0, range.first}),
                          model.table.lower_bound({0, range.end()}));
        continue;
      }
      for (uint64_t page = range.first; page < range.end(); ++page) {
        const uint64_t seed = Pick(6) == 0 ? 0 : 1 + Pick(3000);
        model.table[{0, page}] = seed;
        ASSERT_TRUE((*writer)->AddPages(0, {page, 1}, MakePage(seed).data()).ok());
      }
    }
    if (Pick(12) == 0) return;  // Abandoned.
    model.image = std::string(Pick(3000), char('a' + Pick(26)));
    time_us_ += Pick(20) == 0 ? Pick(90'000'000'000) : Pick(1'000'000'000);
    model.time_us = time_us_;
    pb::EpochRecord record;
    record.set_time_us(time_us_);
    auto done = (*writer)->Commit(record, model.image);
    ASSERT_TRUE(done.ok()) << done.status();
    epochs[done->epoch()] = std::move(model);
  }

  GcPolicy RandomPolicy() {
    GcPolicy policy;
    if (Pick(2) == 0) policy.keep_last = 1 + Pick(12);
    if (Pick(3) == 0) policy.keep_within_us = 1 + Pick(10'000'000'000);
    if (Pick(3) == 0) policy.keep_hourly = 1 + Pick(5);
    if (Pick(3) == 0) policy.keep_daily = 1 + Pick(3);
    const ModelJob& first = jobs_["first"];
    for (int n = Pick(4); n > 0 && !first.empty(); --n) {
      policy.keep.push_back(std::next(first.begin(), Pick(first.size()))->first);
    }
    if (policy.empty()) policy.keep_last = 3;
    return policy;
  }

  void Collect() {
    GcOptions options;
    options.policy = RandomPolicy();
    options.recompress_zstd = Pick(3) == 0;
    options.thorough = Pick(2) == 0;
    options.max_filter_bytes = Pick(2) == 0 ? 500 : 1 << 20;  // several ranges, or one
    if (Pick(3) == 0 && !jobs_["first"].empty()) options.job = "first";
    SCOPED_TRACE(PolicyText(options.policy));
    auto result = store_->CollectGarbage(options);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->warnings.empty());
    EXPECT_EQ(result->packs_waiting, 0);
    for (auto& [job, epochs] : jobs_) {
      if (!options.job.empty() && job != options.job) continue;
      std::vector<EpochMoment> moments;
      for (const auto& [epoch, model] : epochs) moments.push_back({epoch, model.time_us});
      const auto kept = ChooseKept(moments, options.policy);
      std::erase_if(epochs, [&](const auto& entry) { return kept.count(entry.first) == 0; });
    }
    Compare(*store_);
  }

  void Compare(const StoreReader& store) {
    for (const auto& [job, epochs] : jobs_) {
      if (epochs.empty()) continue;
      auto records = store.ListEpochs(job);
      ASSERT_TRUE(records.ok()) << records.status();
      ASSERT_EQ(records->size(), epochs.size()) << job;
      for (const pb::EpochRecord& record : *records) {
        const auto model = epochs.find(record.epoch());
        ASSERT_NE(model, epochs.end()) << job << " " << record.epoch();
        ASSERT_TRUE(record.parent() == 0 || epochs.count(record.parent()) == 1) << record.parent();
        ASSERT_EQ(Difference(store, job, record.epoch(), model->second.table), "")
            << job << " " << record.epoch();
        ASSERT_EQ(store.ReadImage(job, record.epoch()).value_or("?"), model->second.image);
      }
    }
  }

  std::mt19937_64 random_;
  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  std::unique_ptr<Store> store_;
  std::map<std::string, ModelJob> jobs_;
  int64_t time_us_ = 1'700'000'000'000'000;
};

TEST_P(GcModelTest, KeptEpochsAreTheSameAfterwards) {
  for (int step = 0; step < 100; ++step) {
    SCOPED_TRACE(step);
    OneEpoch();
    if (step % 20 == 19) Collect();
    if (HasFailure()) return;
    if (Pick(25) == 0) Reopen();
  }
  Reopen();
  Compare(*store_);
  auto reader = StoreReader::Open(path_);  // Beside the writer.
  ASSERT_TRUE(reader.ok()) << reader.status();
  Compare(**reader);
  reader->reset();
  // And the packs still say what the index does.
  store_.reset();
  auto remade = RemakeIndex(path_);
  ASSERT_TRUE(remade.ok()) << remade.status();
  EXPECT_EQ(remade->bodies_lost, 0);
  EXPECT_TRUE(remade->dropped.empty());
  Reopen();
  Compare(*store_);
}

INSTANTIATE_TEST_SUITE_P(Seeds, GcModelTest, ::testing::Range(1, 7));

}  // namespace
}  // namespace incr
