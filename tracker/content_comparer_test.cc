#include "tracker/content_comparer.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace incr {
namespace {

std::vector<uint8_t> Page(uint8_t fill) { return std::vector<uint8_t>(kPageSize, fill); }

TEST(ContentComparerTest, OnlyChangedPagesAreReportedAndOnlyKeptPassesCount) {
  ContentComparer comparer;
  const auto pass = [&](std::vector<std::pair<uint64_t, uint8_t>> pages) {
    comparer.Begin();
    for (auto [page, fill] : pages) comparer.Visit(page, Page(fill).data());
  };
  pass({{1, 'a'}, {2, 'b'}, {9, 'c'}});
  EXPECT_EQ(comparer.changed().page_count(), 3u);
  comparer.Keep();
  pass({{1, 'a'}, {2, 'x'}, {9, 'c'}, {10, 'd'}});
  EXPECT_EQ(comparer.changed().runs(), (std::vector<PageRange>{{2, 1}, {10, 1}}));
  EXPECT_EQ(comparer.content().page_count(), 4u);
  pass({{2, 'x'}, {9, 'c'}});  // The pass before was not kept.
  EXPECT_EQ(comparer.changed().runs(), (std::vector<PageRange>{{2, 1}}));
  comparer.Keep();
  pass({{1, 'a'}, {2, 'x'}, {9, 'c'}});  // 1 had vanished meanwhile.
  EXPECT_EQ(comparer.changed().runs(), (std::vector<PageRange>{{1, 1}}));
  comparer.Reset();
  pass({{2, 'x'}});
  EXPECT_EQ(comparer.changed().page_count(), 1u);
}

TEST(PageHashesTest, EveryByteOfAPageMatters) {
  const RandomPageHasher hasher;
  std::vector<uint8_t> page = Page(0);
  const PageHash zero = hasher.Hash(page.data());
  for (size_t i = 0; i < kPageSize; ++i) {
    page[i] = 1;
    ASSERT_NE(hasher.Hash(page.data()), zero) << i;
    page[i] = 0;
  }
  EXPECT_EQ(hasher.Hash(page.data()), zero);
  EXPECT_NE(RandomPageHasher().Hash(page.data()), zero);  // Another key.
}

TEST(PageHashesTest, TheCursorFindsWhatIsThereAndNothingElse) {
  PageHashes hashes;
  for (uint64_t page : {3, 4, 5, 9, 20, 21}) hashes.Append(page, {page, 0});
  PageHashes::Cursor cursor(hashes);
  for (uint64_t page = 0; page < 30; ++page) {
    const PageHash* hash = cursor.Find(page);
    const bool there = (page >= 3 && page <= 5) || page == 9 || page == 20 || page == 21;
    ASSERT_EQ(hash != nullptr, there) << page;
    if (there) {
      EXPECT_EQ(hash->low, page);
    }
  }
  PageHashes::Cursor jumping(hashes);
  EXPECT_EQ(jumping.Find(4)->low, 4u);
  EXPECT_EQ(jumping.Find(21)->low, 21u);
}

}  // namespace
}  // namespace incr
