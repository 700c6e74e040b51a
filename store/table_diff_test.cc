// Three ways to compare two tables, one answer; and that neighbours of a chain are compared by their delta.
#include "store/table_diff.h"

#include <gtest/gtest.h>

#include <random>

#include "store/catalog.h"
#include "store/compare_epochs.h"
#include "store/kv_db.h"
#include "store/test_pages.h"

namespace incr {
namespace {

using Kind = PageChangeKind;

PageTable RandomTable(std::mt19937_64& random) {
  PageTable table;
  for (uint32_t space = 0; space < 2; ++space) {
    for (uint64_t page = 0; page < 40; ++page) {
      if (random() % 2) table.push_back({space, page, {0, random() % 3}});
    }
  }
  return table;
}

PageDelta RandomDelta(std::mt19937_64& random) {
  PageDelta delta;
  for (uint32_t space = 0; space < 2; ++space) {
    for (uint64_t page = 0; page < 40; ++page) {
      if (random() % 4 == 0) delta.written.push_back({space, page, {0, random() % 3}});
    }
    const uint64_t first = random() % 30;
    delta.gone.push_back({space, {first, 1 + random() % 9}});
  }
  return delta;
}

TEST(TableDiffTest, ChangedAddedGone) {
  const PageTable before = {{0, 1, {0, 1}}, {0, 2, {0, 2}}, {0, 3, {0, 3}}};
  const PageTable after = {{0, 2, {0, 9}}, {0, 3, {0, 3}}, {1, 1, {0, 1}}};
  const PageChanges expected = {{0, Kind::kGone, 1}, {0, Kind::kChanged, 2}, {1, Kind::kAdded, 1}};
  EXPECT_EQ(CompareTables(before, after), expected);
  EXPECT_EQ(Reversed(expected), CompareTables(after, before));
  EXPECT_EQ(CompareTables(before, before), PageChanges());
}

TEST(TableDiffTest, WithADeltaAsWithTheTableThatItMakes) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 500; ++round) {
    const PageTable before = RandomTable(random);
    const PageDelta delta = RandomDelta(random);
    ASSERT_EQ(CompareWithDelta(before, delta), CompareTables(before, Overlay(before, delta)));
  }
}

TEST(TableDiffTest, TheDeltaAloneAnswersOnlyWhenItTells) {
  PageDelta delta;
  delta.written = {{0, 5, {0, 1}}, {0, 6, {0, 2}}};
  const PageChanges changed = {{0, Kind::kChanged, 5}, {0, Kind::kChanged, 6}};
  const PageChanges added = {{0, Kind::kAdded, 5}, {0, Kind::kAdded, 6}};
  EXPECT_EQ(CompareByDelta(delta, 10, 10), changed);
  EXPECT_EQ(CompareByDelta(delta, 10, 12), added);
  EXPECT_EQ(CompareByDelta(delta, 10, 11), std::nullopt) << "one is new: which?";
  EXPECT_EQ(CompareByDelta(delta, 10, 9), std::nullopt) << "a page vanished without a word";
  delta.gone = {{0, {1, 2}}};
  const PageChanges both = {{0, Kind::kGone, 1}, {0, Kind::kGone, 2}, {0, Kind::kChanged, 5}, {0, Kind::kChanged, 6}};
  EXPECT_EQ(CompareByDelta(delta, 10, 8), both);
  EXPECT_EQ(CompareByDelta(delta, 1, 1), std::nullopt) << "more gone than there was";
  delta.gone = {{0, {4, 2}}};
  EXPECT_EQ(CompareByDelta(delta, 10, 8), std::nullopt) << "page 5 is on both sides";
}

class CompareEpochsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    StoreOptions options;
    options.create_if_missing = true;
    options.full_table_every = 8;
    auto store = Store::Open(directory_ / "store", options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Put(uint64_t parent, const std::vector<std::pair<uint64_t, uint64_t>>& pages,
           std::vector<PageRange> gone = {}) {
    auto writer = store_->BeginEpoch("job", parent);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const auto& [page, seed] : pages) {
      ASSERT_TRUE((*writer)->AddPages(0, {page, 1}, MakePage(seed).data()).ok());
    }
    for (const PageRange& range : gone) ASSERT_TRUE((*writer)->AddGone(0, range).ok());
    const auto record = (*writer)->Commit({}, "image");
    ASSERT_TRUE(record.ok()) << record.status();
  }
  PageChanges ByTables(uint64_t before, uint64_t after) {
    return CompareTables(store_->LoadPageTable("job", before).value(),
                         store_->LoadPageTable("job", after).value());
  }

  TempDirectory directory_;
  std::unique_ptr<Store> store_;
};

// gc joins the deltas of epochs that go; what comes out may look like an epoch's own.
TEST_F(CompareEpochsTest, AfterGcAsTheTablesSay) {
  Put(0, {{10, 1}, {11, 1}});
  Put(1, {{10, 2}});
  Put(2, {{10, 1}});            // 10 changes and changes back
  Put(3, {{12, 7}});
  Put(4, {{11, 2}}, {{12, 1}});  // 12 comes and goes
  Put(5, {{10, 9}});
  GcOptions options;
  options.policy.keep = {1, 3, 5};
  ASSERT_TRUE(store_->CollectGarbage(options).ok());
  for (const auto& [before, after] : {std::pair{1, 3}, {3, 5}, {1, 5}, {5, 6}, {1, 6}}) {
    const auto changes = store_->ComparePages("job", before, after);
    ASSERT_TRUE(changes.ok()) << changes.status();
    EXPECT_EQ(*changes, ByTables(before, after)) << before << " and " << after;
  }
}

TEST_F(CompareEpochsTest, AnyTwoEpochsAsTheirTablesSay) {
  std::mt19937_64 random(3);
  const auto some = [&] {
    std::vector<std::pair<uint64_t, uint64_t>> pages;
    for (int n = 0; n < 6; ++n) pages.emplace_back(random() % 40, random() % 5);
    return pages;
  };
  Put(0, some());
  for (uint64_t epoch = 2; epoch <= 30; ++epoch) {
    // A branch now and then.
    Put(epoch % 10 == 0 ? epoch - 5 : epoch - 1, some(), {{random() % 40, random() % 4}});
  }
  for (uint64_t a = 1; a <= 30; ++a) {
    for (uint64_t b = 1; b <= 30; ++b) {
      const auto changes = store_->ComparePages("job", a, b);
      ASSERT_TRUE(changes.ok()) << changes.status();
      ASSERT_EQ(*changes, ByTables(a, b)) << a << " " << b;
    }
  }
  EXPECT_TRUE(absl::IsNotFound(store_->ComparePages("job", 1, 31).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->ComparePages("other", 1, 2).status()));
}

TEST_F(CompareEpochsTest, NeighboursCostOneDelta) {
  std::vector<std::pair<uint64_t, uint64_t>> pages;
  for (uint64_t page = 0; page < 2000; ++page) pages.emplace_back(page, page + 1);
  Put(0, pages);
  Put(1, {{7, 5000}, {9, 5001}}, {{100, 50}});
  Put(2, {{3000, 1}, {8, 5002}});  // One new, one not: the delta does not tell.
  store_.reset();
  auto db = KvDb::Open(directory_ / "store/db", KvDb::Mode::kReadOnly);
  ASSERT_TRUE(db.ok()) << db.status();
  const Catalog catalog(db->get());
  for (const auto& [from, to] : {std::pair(1, 2), std::pair(2, 1)}) {
    const uint64_t manifests = catalog.work().manifests, bytes = catalog.work().manifest_bytes;
    const auto changes = CompareEpochs(catalog, "job", from, to);
    ASSERT_TRUE(changes.ok()) << changes.status();
    EXPECT_EQ(changes->size(), 52);
    EXPECT_EQ(catalog.work().manifests - manifests, 1);
    EXPECT_LT(catalog.work().manifest_bytes - bytes, 1000);
  }
  const auto mixed = CompareEpochs(catalog, "job", 2, 3);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  const PageChanges expected = {{0, Kind::kChanged, 8}, {0, Kind::kAdded, 3000}};
  EXPECT_EQ(*mixed, expected);
}

}  // namespace
}  // namespace incr
