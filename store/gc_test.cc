// The parts of gc: policies, plans of chains, the filter of ids, leases of readers.
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "base/file.h"
#include "store/checksum.h"
#include "store/gc_plan.h"
#include "store/gc_policy.h"
#include "store/id_filter.h"
#include "store/reader_lease.h"
#include "store/test_pages.h"
#include "store/zstd_page.h"

namespace incr {
namespace {

constexpr int64_t kHourUs = 3'600'000'000;

std::vector<EpochMoment> Every(int64_t us, uint64_t count, int64_t start_us = 0) {
  std::vector<EpochMoment> epochs;
  for (uint64_t i = 1; i <= count; ++i) {
    epochs.push_back({i, start_us + static_cast<int64_t>(i - 1) * us});
  }
  return epochs;
}

std::vector<uint64_t> KeptBy(const std::vector<EpochMoment>& epochs, const GcPolicy& policy) {
  std::vector<uint64_t> kept;
  for (const auto& [epoch, rule] : ChooseKept(epochs, policy)) kept.push_back(epoch);
  return kept;
}

using Numbers = std::vector<uint64_t>;

TEST(GcPolicyTest, KeepLastKeepsTheNewest) {
  GcPolicy policy;
  policy.keep_last = 3;
  EXPECT_EQ(KeptBy(Every(1, 10), policy), (Numbers{8, 9, 10}));
  EXPECT_EQ(KeptBy(Every(1, 2), policy), (Numbers{1, 2}));
}

TEST(GcPolicyTest, KeepWithinCountsFromTheNewestEpoch) {
  GcPolicy policy;
  policy.keep_within_us = 2 * kHourUs;
  EXPECT_EQ(KeptBy(Every(kHourUs, 6), policy), (Numbers{4, 5, 6}));
}

TEST(GcPolicyTest, HourlyAndDailyKeepTheNewestOfEachPeriodThatHasAny) {
  GcPolicy policy;
  policy.keep_hourly = 2;
  std::vector<EpochMoment> epochs = Every(kHourUs / 4, 12);  // 1-4 in hour 0, 5-8, 9-12
  epochs.push_back({13, 50 * kHourUs});
  EXPECT_EQ(KeptBy(epochs, policy), (Numbers{12, 13}));
  policy.keep_hourly = 0;
  policy.keep_daily = 9;
  EXPECT_EQ(KeptBy(epochs, policy), (Numbers{12, 13}));
}

TEST(GcPolicyTest, AnyRuleKeepsAndTheNewestStaysWithoutOne) {
  GcPolicy policy;
  policy.keep = {2, 4, 77};
  const auto kept = ChooseKept(Every(1, 6), policy);
  EXPECT_EQ(kept, (std::map<uint64_t, std::string>{{2, "keep"}, {4, "keep"}, {6, "newest"}}));
  policy.keep_last = 3;
  EXPECT_EQ(ChooseKept(Every(1, 6), policy).at(4), "last, keep");
}

TEST(GcPolicyTest, AgesAreReadAndWritten) {
  EXPECT_EQ(*ParseAge("2h"), 2 * kHourUs);
  EXPECT_EQ(*ParseAge("1h30m"), kHourUs * 3 / 2);
  EXPECT_EQ(*ParseAge("7d"), 7 * 24 * kHourUs);
  EXPECT_EQ(*ParseAge("90s"), 90'000'000);
  for (const char* wrong : {"", "2", "h", "2x", "-2h", "0s", "2 h", "99999999999999999999d", "2h3"}) {
    EXPECT_FALSE(ParseAge(wrong).ok()) << wrong;
  }
  GcPolicy policy;
  policy.keep_last = 100;
  policy.keep_within_us = kHourUs * 3 / 2;
  policy.keep = {7};
  EXPECT_EQ(PolicyText(policy), "--keep-last 100 --keep-within 1h30m --keep 7");
}

// 1F <- 2 <- 3 <- 4 <- 5 <- 6F <- 7, and 8 on 3.
std::vector<EpochFacts> Chain() {
  std::vector<EpochFacts> epochs;
  const uint32_t depths[] = {0, 1, 2, 3, 4, 0, 1, 3};
  for (uint64_t i = 1; i <= 8; ++i) {
    EpochFacts facts;
    facts.epoch = i;
    facts.parent = i == 8 ? 3 : i - 1;
    facts.depth = depths[i - 1];
    epochs.push_back(facts);
  }
  return epochs;
}

TEST(GcPlanTest, DeltasAreCombinedDownToAKeptAncestorOrAFullTable) {
  auto steps = PlanChains(Chain(), {3, 5, 7, 8});
  ASSERT_TRUE(steps.ok());
  ASSERT_EQ(steps->size(), 4);
  EXPECT_EQ((*steps)[0].combine, (Numbers{1, 2, 3}));
  EXPECT_TRUE((*steps)[0].full);
  EXPECT_EQ((*steps)[0].parent, 0);
  EXPECT_EQ((*steps)[1].combine, (Numbers{4, 5}));
  EXPECT_FALSE((*steps)[1].full);
  EXPECT_EQ((*steps)[1].parent, 3);
  EXPECT_EQ((*steps)[2].combine, (Numbers{6, 7}));
  EXPECT_TRUE((*steps)[2].full);
  EXPECT_EQ((*steps)[2].parent, 5);
  EXPECT_FALSE((*steps)[3].rewritten());
  EXPECT_EQ((*steps)[3].parent, 3);
}

TEST(GcPlanTest, ABrokenChainIsNamed) {
  std::vector<EpochFacts> epochs = Chain();
  epochs.erase(epochs.begin() + 1);
  auto steps = PlanChains(epochs, {4});
  EXPECT_TRUE(absl::IsDataLoss(steps.status())) << steps.status();
  EXPECT_NE(steps.status().message().find("epoch 4"), std::string::npos);
}

TEST(GcPlanTest, WithTheirChainsNothingNeedBeRewritten) {
  const std::set<uint64_t> kept = WithChains(Chain(), {5, 7});
  EXPECT_EQ(kept, (std::set<uint64_t>{1, 2, 3, 4, 5, 6, 7}));
  const auto steps = PlanChains(Chain(), kept);
  ASSERT_TRUE(steps.ok());
  for (const ChainStep& step : *steps) EXPECT_FALSE(step.rewritten());
}

TEST(IdFilterTest, FindsWhatItWasGivenAndLittleElse) {
  std::mt19937_64 random(7);
  for (const uint32_t parts : {1, 3}) {
    const IdRange range = PartOfAllIds(1 % parts, parts);
    IdFilter filter(range, 100'000 / parts);
    EXPECT_LE(filter.bytes(), 100'000 / parts * IdFilter::kBytesPerId + 64);
    std::vector<PageId> in;
    for (int i = 0; i < 100'000; ++i) in.push_back({random(), random()});
    for (const PageId& id : in) filter.Insert(id);
    int missed = 0, false_hits = 0;
    for (const PageId& id : in) missed += range.Covers(id) && !filter.MayContain(id);
    for (int i = 0; i < 100'000; ++i) false_hits += filter.MayContain({random(), random()});
    EXPECT_EQ(missed, 0);
    EXPECT_LT(false_hits, 1'000) << parts;
  }
}

TEST(IdFilterTest, PartsCoverEveryIdOnce) {
  std::mt19937_64 random(7);
  for (const uint32_t parts : {1, 2, 3, 7, 64}) {
    for (int i = 0; i < 1000; ++i) {
      const PageId id{i == 0 ? 0 : i == 1 ? UINT64_MAX : random(), 1};
      int covered = 0;
      for (uint32_t part = 0; part < parts; ++part) covered += PartOfAllIds(part, parts).Covers(id);
      ASSERT_EQ(covered, 1) << parts << " " << id.high;
    }
  }
}

TEST(ReaderLeaseTest, HoldsBackOnlyDeletionsThatBeganAfterIt) {
  TempDirectory directory;
  const StorePaths paths(directory.path());
  std::ofstream(paths.format) << "version 1\n";
  auto early = ReaderLease::Take(paths);  // Before there was a file `generation`.
  ASSERT_TRUE(early.ok()) << early.status();
  auto barrier = ReaderBarrier::Open(paths);
  ASSERT_TRUE(barrier.ok()) << barrier.status();
  const uint64_t first = *barrier->Advance();
  EXPECT_TRUE(*barrier->HasReadersUpTo(first));
  auto late = ReaderLease::Take(paths);
  ASSERT_TRUE(late.ok());
  EXPECT_TRUE(*barrier->HasReadersUpTo(first));
  { ReaderLease gone = *std::move(early); }
  EXPECT_FALSE(*barrier->HasReadersUpTo(first)) << "a later reader holds nothing up";
  const uint64_t second = *barrier->Advance();
  EXPECT_TRUE(*barrier->HasReadersUpTo(second));
  { ReaderLease gone = *std::move(late); }
  EXPECT_FALSE(*barrier->HasReadersUpTo(second));
}

TEST(ReaderLeaseTest, TheGenerationIsUnderAChecksumAndTheOldFormIsRead) {
  TempDirectory directory;
  const StorePaths paths(directory.path());
  std::ofstream(paths.format) << "version 1\n";
  std::ofstream(paths.generation) << std::string("\7\0\0\0\0\0\0\0", 8);  // As version 0.1 wrote it.
  auto barrier = ReaderBarrier::Open(paths);
  ASSERT_TRUE(barrier.ok()) << barrier.status();
  EXPECT_EQ(barrier->Advance().value_or(0), 7u);
  EXPECT_EQ(barrier->Advance().value_or(0), 8u);
  const std::string good = ReadWholeFile(paths.generation).value();
  ASSERT_EQ(good.size(), kGenerationFileBytes);
  EXPECT_EQ(good.substr(0, 16), std::string("\x9\0\0\0\0\0\0\0ICKG\1\0\0\0", 16));
  for (size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = good;
      damaged[at] ^= 1 << bit;
      std::ofstream(paths.generation, std::ios::binary) << damaged;
      EXPECT_TRUE(absl::IsDataLoss(ReaderLease::Take(paths).status())) << at << " " << bit;
      EXPECT_TRUE(absl::IsDataLoss(barrier->Advance().status())) << at << " " << bit;
    }
    if (at == 8) continue;  // The old form.
    std::ofstream(paths.generation, std::ios::binary) << good.substr(0, at);
    EXPECT_TRUE(absl::IsDataLoss(ReaderLease::Take(paths).status())) << at;
  }
  std::string newer = good.substr(0, 16);
  newer[12] = 2;
  const uint64_t sum = Checksum64(newer);
  newer.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  std::ofstream(paths.generation, std::ios::binary) << newer;
  EXPECT_TRUE(absl::IsFailedPrecondition(ReaderLease::Take(paths).status()));
}

TEST(ZstdPageTest, PagesComeBackAndAnyBytesAreSafe) {
  std::mt19937_64 random(3);
  uint8_t body[kPageSize], page[kPageSize];
  for (uint64_t seed = 1; seed < 200; ++seed) {
    const PageBytes original = MakePage(seed);
    const size_t size = CompressZstdPage(original.data(), body, kPageSize);
    if (size == 0) continue;  // Noise.
    ASSERT_LT(size, kPageSize);
    ASSERT_TRUE(DecompressZstdPage(body, size, page));
    ASSERT_EQ(std::memcmp(page, original.data(), kPageSize), 0);
    EXPECT_FALSE(DecompressZstdPage(body, size - 1, page));
    body[random() % size] ^= 1 + random() % 255;
    (void)DecompressZstdPage(body, size, page);
  }
}

}  // namespace
}  // namespace incr
