// The store against a std::map, over random epochs: branches, drops, pages given twice, abandoned
// epochs, failures, reopenings.
#include <gtest/gtest.h>

#include <random>

#include "base/fault_point.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

class ModelTest : public ::testing::TestWithParam<int> {
 protected:
  ModelTest() : random_(GetParam()) { Reopen(); }
  ~ModelTest() override { ArmFaultPoints(""); }

  void Reopen() {
    store_.reset();
    StoreOptions options;
    options.create_if_missing = true;
    options.full_table_every = 1 + Pick(9);
    options.pack_bytes = (1 + Pick(3)) << 20;
    options.buffer_bytes = 1 << (16 + Pick(6));
    options.workers = 1 + Pick(3);
    options.paranoid = Pick(4) == 0;
    options.max_known_pages = Pick(4) == 0 ? 50 : 1 << 20;
    auto store = Store::Open(directory_ / "store", options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  uint64_t Pick(uint64_t bound) { return random_() % bound; }

  // Random changes, made to both.
  absl::Status Change(EpochWriter& writer, ModelTable* model) {
    const int calls = Pick(3) == 0 ? Pick(60) : Pick(8);
    for (int call = 0; call < calls; ++call) {
      const uint32_t space = Pick(4) == 0 ? 1 + Pick(3) : 0;
      const uint64_t far = Pick(20) == 0 ? uint64_t{1} << 34 : 0;
      const PageRange range{far + Pick(600), Pick(5) == 0 ? Pick(200) : 1 + Pick(3)};
      if (Pick(4) == 0) {
        INCR_RETURN_IF_ERROR(writer.AddGone(space, range));
        model->erase(model->lower_bound({space, range.first}),
                     model->lower_bound({space, range.end()}));
        continue;
      }
      std::vector<uint8_t> bytes(range.count * kPageSize);
      for (uint64_t i = 0; i < range.count; ++i) {
        const uint64_t seed = Pick(6) == 0 ? 0 : 1 + Pick(400);
        std::memcpy(bytes.data() + i * kPageSize, MakePage(seed).data(), kPageSize);
        (*model)[{space, range.first + i}] = seed;
      }
      INCR_RETURN_IF_ERROR(writer.AddPages(space, range, bytes.data()));
      if (Pick(10) == 0) INCR_RETURN_IF_ERROR(writer.Settle());
    }
    return absl::OkStatus();
  }

  void OneEpoch() {
    const std::string job = Pick(4) == 0 ? "second" : "first";
    auto& epochs = epochs_[job];
    const uint64_t head = epochs.size();
    uint64_t parent = head;
    if (head > 0 && Pick(8) == 0) parent = Pick(head + 1);  // A branch, or a new chain.
    ModelTable model = parent == 0 ? ModelTable() : epochs[parent - 1];
    const std::string image(Pick(3000), char('a' + Pick(26)));
    auto writer = store_->BeginEpoch(job, parent);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_EQ((*writer)->epoch(), head + 1);
    const bool fails = Pick(10) == 0;
    if (fails) {
      const char* points[] = {"store.pack_write=error",      "store.after_pack_write=error",
                              "store.pack_sync=error",       "store.after_pack_sync=error",
                              "store.kv_write=error",        "store.kv_write=error:2",
                              "store.kv_write_unsure=error:1", "store.after_index=error",
                              "store.kv_write_unsure=error:2", "store.after_manifest=error"};
      ArmFaultPoints(points[Pick(std::size(points))]);
    }
    const absl::Status changed = Change(**writer, &model);
    if (!fails) {
      ASSERT_TRUE(changed.ok()) << changed;
      if (Pick(12) == 0) return;  // Abandoned.
    }
    auto record = (*writer)->Commit({}, image);
    ArmFaultPoints("");
    if (!fails) {
      ASSERT_TRUE(record.ok()) << record.status();
    } else if (!record.ok()) {
      return;  // Nothing may have been committed; the next epoch has the same number.
    }
    epochs.push_back(std::move(model));
    images_[{job, head + 1}] = image;
    EXPECT_EQ(record->table_pages(), epochs.back().size());
    EXPECT_EQ(record->stats().pages_written(),
              record->stats().pages_zero() + record->stats().pages_deduplicated() +
                  record->stats().pages_stored());
  }

  void Compare(const StoreReader& store) {
    for (const auto& [job, epochs] : epochs_) {
      auto records = store.ListEpochs(job);
      ASSERT_EQ(records.ok() ? records->size() : 0, epochs.size());
      for (uint64_t epoch = 1; epoch <= epochs.size(); ++epoch) {
        ASSERT_EQ(Difference(store, job, epoch, epochs[epoch - 1]), "") << job << " " << epoch;
        ASSERT_EQ(store.ReadImage(job, epoch).value_or("?"), (images_[{job, epoch}]));
      }
    }
  }

  std::mt19937_64 random_;
  TempDirectory directory_;
  std::unique_ptr<Store> store_;
  std::map<std::string, std::vector<ModelTable>> epochs_;
  std::map<std::pair<std::string, uint64_t>, std::string> images_;
};

TEST_P(ModelTest, TheStoreHoldsWhatTheModelHolds) {
  for (int step = 0; step < 120; ++step) {
    SCOPED_TRACE(step);
    OneEpoch();
    if (HasFatalFailure()) return;
    if (Pick(25) == 0) Reopen();
  }
  Compare(*store_);
  if (HasFatalFailure()) return;
  auto reader = StoreReader::Open(directory_ / "store");  // Beside the writer.
  ASSERT_TRUE(reader.ok()) << reader.status();
  Compare(**reader);
  Reopen();
  Compare(*store_);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ModelTest, ::testing::Range(1, 7));

}  // namespace
}  // namespace incr
