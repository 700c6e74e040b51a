#include "tracker/entry_comparer.h"

#include <initializer_list>
#include <utility>

#include "gtest/gtest.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

using Backing = EntryComparer::Backing;

uint64_t Clean(uint64_t frame) { return kPagemapPresent | frame; }
uint64_t Dirty(uint64_t frame) { return Clean(frame) | kPagemapSoftDirty; }
uint64_t Swapped(uint64_t slot) { return kPagemapSwapped | slot; }

PageSet Set(std::initializer_list<PageRange> ranges) {
  PageSet set;
  for (PageRange r : ranges) set.Add(r);
  return set;
}

class EntryComparerTest : public ::testing::Test {
 protected:
  void Pass(std::initializer_list<std::pair<uint64_t, uint64_t>> entries,
            Backing backing = Backing::kAnonymous) {
    comparer_.Begin();
    for (const auto& [page, entry] : entries) comparer_.Visit(page, entry, backing);
  }
  // Of `backing`, on frames from `frame` on.
  void HugePass(uint64_t first, uint64_t count, uint64_t frame, Backing backing) {
    comparer_.Begin();
    for (uint64_t i = 0; i < count; ++i) comparer_.Visit(first + i, Clean(frame + i), backing);
  }
  EntryComparer comparer_;
};

TEST_F(EntryComparerTest, BeforeTheFirstClearingEverythingIsWritten) {
  Pass({{1, Clean(10)}, {2, Swapped(11)}});
  EXPECT_EQ(comparer_.written(), Set({{1, 2}}));
  EXPECT_EQ(comparer_.content(), Set({{1, 2}}));
}

TEST_F(EntryComparerTest, AfterwardsWhatHasItsBitSet) {
  Pass({{1, Dirty(10)}, {2, Dirty(11)}, {4, Swapped(12)}});
  comparer_.Keep();
  Pass({{1, Clean(10)}, {2, Dirty(11)}, {4, Swapped(12)}});
  EXPECT_EQ(comparer_.written(), Set({{2, 1}}));
  EXPECT_EQ(comparer_.content(), Set({{1, 2}, {4, 1}}));
}

TEST_F(EntryComparerTest, APageThatLooksCleanWhereThereWasNoneIsWritten) {
  Pass({{1, Dirty(10)}});
  comparer_.Keep();
  Pass({{1, Clean(10)}, {2, Clean(11)}});
  EXPECT_EQ(comparer_.written(), Set({{2, 1}}));
}

TEST_F(EntryComparerTest, AnotherPageInACleanOnesPlaceIsWritten) {
  Pass({{1, Dirty(10)}, {2, Dirty(11)}, {3, Dirty(12)}, {4, Swapped(13)}, {5, Swapped(14)}});
  comparer_.Keep();
  Pass({{1, Clean(20)}, {2, Swapped(11)}, {3, Clean(12)}, {4, Clean(13)}, {5, Swapped(15)}});
  EXPECT_EQ(comparer_.written(), Set({{1, 2}, {4, 2}}));
}

TEST_F(EntryComparerTest, WhereFramesAreHiddenNothingIsClean) {
  Pass({{1, Clean(0)}});
  comparer_.Keep();
  Pass({{1, Clean(0)}});
  EXPECT_EQ(comparer_.written(), Set({{1, 1}}));
}

TEST_F(EntryComparerTest, APassThatIsNotKeptChangesNothing) {
  Pass({{1, Dirty(10)}});
  comparer_.Keep();
  Pass({{1, Clean(20)}});
  Pass({{1, Clean(20)}});
  EXPECT_EQ(comparer_.written(), Set({{1, 1}}));
}

TEST_F(EntryComparerTest, AfterForgettingOrDistrustEverythingIsWritten) {
  Pass({{1, Dirty(10)}});
  comparer_.Keep();
  Pass({{1, Clean(10)}});
  EXPECT_TRUE(comparer_.written().empty());
  comparer_.DistrustPass();
  EXPECT_EQ(comparer_.written(), Set({{1, 1}}));
  comparer_.Keep();
  comparer_.Forget();
  Pass({{1, Clean(10)}});
  EXPECT_EQ(comparer_.written(), Set({{1, 1}}));
}

TEST_F(EntryComparerTest, HugePagesOfFilesAreAlwaysWritten) {
  HugePass(1024, 1100, 4096, Backing::kFile);
  comparer_.Keep();
  HugePass(1024, 1100, 4096, Backing::kFile);
  EXPECT_EQ(comparer_.untellable(), Set({{1024, 1024}}));
  EXPECT_EQ(comparer_.written(), Set({{1024, 1024}}));
}

TEST_F(EntryComparerTest, PagesThatCannotBeAHugePageOfAFileAreTold) {
  const struct {
    uint64_t first, count, frame;
    Backing backing;
  } kCases[] = {{1024, 512, 4096, Backing::kAnonymous},
                {1024, 511, 4096, Backing::kFile},
                {1025, 512, 4096, Backing::kFile},
                {1024, 512, 4097, Backing::kFile}};
  for (const auto& c : kCases) {
    HugePass(c.first, c.count, c.frame, c.backing);
    comparer_.Keep();
    HugePass(c.first, c.count, c.frame, c.backing);
    EXPECT_TRUE(comparer_.untellable().empty()) << c.first << " " << c.count << " " << c.frame;
    EXPECT_TRUE(comparer_.written().empty());
  }
}

TEST_F(EntryComparerTest, AHoleInAHugePageMakesItNone) {
  comparer_.Begin();
  for (uint64_t i = 0; i < 1024; ++i) {
    if (i != 100) comparer_.Visit(1024 + i, Clean(4096 + i), Backing::kFile);
  }
  EXPECT_EQ(comparer_.untellable(), Set({{1536, 512}}));
}

}  // namespace
}  // namespace incr
