// Epoch 10,000 costs what epoch 10 does, by the work that is done for it: records and manifests read.
#include <gtest/gtest.h>

#include <functional>

#include "store/catalog.h"
#include "store/compare_epochs.h"
#include "store/kv_db.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

constexpr uint64_t kEpochs = 10'000;
constexpr uint64_t kTablePages = 2000;

class ScaleTest : public ::testing::Test {
 protected:
  // One store for all of them: 10,000 epochs take a while.
  static void SetUpTestSuite() {
    // In memory if it can be: 10,000 synced commits take a minute on a disk, and nothing here is about that.
    if (::access("/dev/shm", W_OK) == 0) ::setenv("TEST_TMPDIR", "/dev/shm", 1);
    directory_ = new TempDirectory;
    StoreOptions options;
    options.create_if_missing = true;
    auto store = Store::Open(*directory_ / "store", options);
    ASSERT_TRUE(store.ok()) << store.status();
    for (uint64_t epoch = 1; epoch <= kEpochs; ++epoch) {
      auto writer = (*store)->BeginEpoch("job", epoch - 1);
      ASSERT_TRUE(writer.ok()) << writer.status();
      // Zero pages: what counts here is the table, and no pack is to be synced 10,000 times.
      static const std::vector<uint8_t> zeros(kTablePages * kPageSize);
      if (epoch == 1) {
        ASSERT_TRUE((*writer)->AddPages(0, {0, kTablePages}, zeros.data()).ok());
      }
      const PageBytes page = MakePage(1 + epoch % 7);
      ASSERT_TRUE((*writer)->AddPages(0, {epoch % kTablePages, 1}, page.data()).ok());
      const auto record = (*writer)->Commit({}, "image");
      ASSERT_TRUE(record.ok()) << record.status();
    }
    store->reset();
    auto db = KvDb::Open(*directory_ / "store/db", KvDb::Mode::kReadOnly);
    ASSERT_TRUE(db.ok()) << db.status();
    db_ = db->release();
  }
  static void TearDownTestSuite() {
    delete db_;
    delete directory_;
  }

  // What `action` reads.
  static Catalog::Work WorkOf(const std::function<absl::Status(const Catalog&)>& action) {
    const Catalog catalog(db_);
    const absl::Status status = action(catalog);
    EXPECT_TRUE(status.ok()) << status;
    return catalog.work();
  }
  static Catalog::Work Opening(uint64_t epoch) {
    return WorkOf([&](const Catalog& catalog) -> absl::Status {
      INCR_ASSIGN_OR_RETURN(const PageTable table, catalog.LoadPageTable("job", epoch));
      EXPECT_EQ(table.size(), kTablePages);
      return catalog.ReadImage("job", epoch).status();
    });
  }

  static TempDirectory* directory_;
  static KvDb* db_;
};

TempDirectory* ScaleTest::directory_ = nullptr;
KvDb* ScaleTest::db_ = nullptr;

TEST_F(ScaleTest, OpeningAnyEpochReadsABoundedChain) {
  // 64 deltas, or 16 times that while they are tiny beside a table; here a table is some 34 KB, a delta 45 bytes.
  uint64_t deepest = 0;
  for (uint64_t epoch = kEpochs; epoch > kEpochs - 2000; epoch -= 37) {
    const Catalog::Work work = Opening(epoch);
    deepest = std::max(deepest, work.manifests);
    EXPECT_LE(work.manifests, 1024);
    EXPECT_EQ(work.records, work.manifests + 1);
    // The chain is never more than a full table and a quarter of one in deltas, each at most 60 bytes.
    EXPECT_LE(work.manifest_bytes, kTablePages * 17 * 3 / 2 + 4096);
  }
  // A table of 34 KB after every 64 deltas of 45 bytes was most of what such a job wrote.
  EXPECT_GT(deepest, 100);
}

TEST_F(ScaleTest, TheLatestEpochIsFoundWithoutTheOthers) {
  const Catalog::Work work = WorkOf([](const Catalog& catalog) -> absl::Status {
    INCR_ASSIGN_OR_RETURN(const EpochEnvelope envelope, catalog.LatestEpoch("job"));
    EXPECT_EQ(envelope.record.epoch(), kEpochs);
    INCR_ASSIGN_OR_RETURN(const uint64_t last, catalog.LastEpoch("job"));
    EXPECT_EQ(last, kEpochs);
    return absl::OkStatus();
  });
  EXPECT_EQ(work.records, 1);
  EXPECT_EQ(work.manifests, 0);
}

TEST_F(ScaleTest, NeighboursAreComparedByOneDelta) {
  uint64_t by_tables = 0;
  for (uint64_t after = kEpochs; after > kEpochs - 300; --after) {
    const Catalog::Work work = WorkOf([&](const Catalog& catalog) -> absl::Status {
      INCR_ASSIGN_OR_RETURN(const PageChanges changes,
                            CompareEpochs(catalog, "job", after - 1, after));
      EXPECT_LE(changes.size(), 1);
      return absl::OkStatus();
    });
    if (work.manifests > 1) {
      ++by_tables;  // `after` is a full table.
      continue;
    }
    EXPECT_LE(work.records, 2);
    EXPECT_LE(work.manifest_bytes, 100);
  }
  EXPECT_LE(by_tables, 300 / 64 + 1);
}

TEST_F(ScaleTest, ListingReadsEachRecordOnceAndNothingElse) {
  const Catalog::Work work = WorkOf([](const Catalog& catalog) -> absl::Status {
    INCR_ASSIGN_OR_RETURN(const auto records, catalog.ListEpochs("job"));
    EXPECT_EQ(records.size(), kEpochs);
    return absl::OkStatus();
  });
  EXPECT_EQ(work.records, kEpochs);
  EXPECT_EQ(work.manifests, 0);
}

}  // namespace
}  // namespace incr
