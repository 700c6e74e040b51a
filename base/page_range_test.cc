#include "base/page_range.h"

#include <cstdint>
#include <ostream>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace incr {

void PrintTo(const PageRange& r, std::ostream* out) {  // For gtest's messages.
  *out << "[" << r.first << ",+" << r.count << ")";
}

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

PageSet Make(std::vector<PageRange> ranges) {
  PageSet set;
  for (PageRange r : ranges) set.Add(r);
  return set;
}

TEST(PageSetTest, TouchingRunsAreJoined) {
  EXPECT_THAT(Make({{10, 2}, {12, 3}}).runs(), ElementsAre(PageRange{10, 5}));
  EXPECT_THAT(Make({{12, 3}, {10, 2}}).runs(), ElementsAre(PageRange{10, 5}));
  EXPECT_THAT(Make({{1, 1}, {5, 1}, {2, 3}}).runs(), ElementsAre(PageRange{1, 5}));
}

TEST(PageSetTest, AddSwallowsWhatItCovers) {
  EXPECT_THAT(Make({{1, 1}, {5, 1}, {9, 1}, {0, 20}}).runs(), ElementsAre(PageRange{0, 20}));
  EXPECT_THAT(Make({{0, 20}, {5, 1}}).runs(), ElementsAre(PageRange{0, 20}));
}

TEST(PageSetTest, EmptyRangesLeaveNoTrace) {
  PageSet set = Make({{7, 0}});
  EXPECT_TRUE(set.empty());
  set.Add(PageRange{1, 2});
  set.Remove(PageRange{2, 0});
  EXPECT_THAT(set.runs(), ElementsAre(PageRange{1, 2}));
}

TEST(PageSetTest, RemoveSplitsARun) {
  PageSet set = Make({{0, 10}});
  set.Remove(PageRange{4, 2});
  EXPECT_THAT(set.runs(), ElementsAre(PageRange{0, 4}, PageRange{6, 4}));
  set.Remove(set);
  EXPECT_THAT(set.runs(), IsEmpty());
}

TEST(PageSetTest, AddingASetToItselfChangesNothing) {
  PageSet set = Make({{0, 2}, {5, 1}});
  set.Add(set);
  EXPECT_THAT(set.runs(), ElementsAre(PageRange{0, 2}, PageRange{5, 1}));
}

// Every operation against a std::set of page numbers, at random.
class Model {
 public:
  explicit Model(uint32_t seed) : random_(seed) {}

  PageRange RandomRange() { return {random_() % 64, random_() % 9}; }
  PageSet RandomSet(std::set<uint64_t>* pages) {
    PageSet set;
    for (int i = random_() % 8; i > 0; --i) {
      const PageRange r = RandomRange();
      set.Add(r);
      for (uint64_t p = r.first; p < r.end(); ++p) pages->insert(p);
    }
    return set;
  }

  std::mt19937 random_;
};

void ExpectSame(const PageSet& set, const std::set<uint64_t>& pages) {
  ASSERT_EQ(set.page_count(), pages.size());
  for (uint64_t p = 0; p < 80; ++p) ASSERT_EQ(set.Contains(p), pages.count(p) == 1) << p;
  for (size_t i = 0; i < set.runs().size(); ++i) {
    ASSERT_GT(set.runs()[i].count, 0u);
    if (i > 0) {
      ASSERT_GT(set.runs()[i].first, set.runs()[i - 1].end());  // Sorted, maximal.
    }
  }
}

TEST(PageSetTest, AgreesWithASetOfNumbers) {
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE(seed);
    Model model(seed);
    std::set<uint64_t> a_pages, b_pages;
    PageSet a = model.RandomSet(&a_pages);
    const PageSet b = model.RandomSet(&b_pages);
    ExpectSame(a, a_pages);

    std::set<uint64_t> both;
    for (uint64_t p : a_pages) {
      if (b_pages.count(p)) both.insert(p);
    }
    ExpectSame(a.Intersect(b), both);
    ExpectSame(b.Intersect(a), both);

    PageSet sum = a;
    sum.Add(b);
    std::set<uint64_t> sum_pages = a_pages;
    sum_pages.insert(b_pages.begin(), b_pages.end());
    ExpectSame(sum, sum_pages);

    const PageRange cut = model.RandomRange();
    sum.Remove(cut);
    for (uint64_t p = cut.first; p < cut.end(); ++p) sum_pages.erase(p);
    ExpectSame(sum, sum_pages);

    a.Remove(b);
    for (uint64_t p : b_pages) a_pages.erase(p);
    ExpectSame(a, a_pages);
  }
}

}  // namespace
}  // namespace incr
