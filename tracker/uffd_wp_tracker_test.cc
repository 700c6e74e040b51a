// What the contract suite does not ask of every back end.
#include "tracker/uffd_wp_tracker.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/kernel_abi.h"
#include "process/pagemap_scan.h"
#include "tracker/tracker_rig.h"

namespace incr {
namespace {

constexpr uint64_t kArena = 0x200000000000;
constexpr uint64_t kOther = 0x210000000000;
constexpr int kRw = PROT_READ | PROT_WRITE;

PageRange Arena(uint64_t pages) { return {kArena / kPageSize, pages}; }

class UffdWpTrackerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const BackEnd back_end{"UffdWp", "uffd-wp", std::nullopt};
    if (const absl::Status works = back_end.Works(); !works.ok()) GTEST_SKIP() << works;
    rig_.emplace(back_end);
  }
  void TearDown() override { ArmFaultPoints(""); }
  TrackerRig& rig() { return *rig_; }

  void StartWith(uint64_t pages) {
    rig().Do("map %lx %lx %x anon", kArena, pages, kRw);
    rig().Do("fill %lx %lx 1", kArena, pages);
    rig().Arm();
    ASSERT_NO_FATAL_FAILURE(rig().Epoch());
  }
  // What the bits say, read by means of our own.
  PageSet UnprotectedIn(PageRange range) {
    auto scanner = PagemapScanner::Open(rig().process());
    EXPECT_TRUE(scanner.ok());
    std::vector<uint64_t> entries(range.count);
    EXPECT_TRUE(scanner->ReadEntries(range, entries.data()).ok());
    PageSet unprotected;
    for (uint64_t i = 0; i < range.count; ++i) {
      if ((entries[i] & kPagemapUffdWp) == 0) unprotected.Add({range.first + i, 1});
    }
    return unprotected;
  }
  PageSet In(PageRange range, const PageSet& pages) {
    PageSet all;
    all.Add(range);
    return pages.Intersect(all);
  }
  long PageTableKib() {
    const std::string path = rig().process().ProcPath("status");
    FILE* file = std::fopen(path.c_str(), "re");
    long kib = -1;
    char line[256];
    while (file != nullptr && std::fgets(line, sizeof line, file)) std::sscanf(line, "VmPTE: %ld", &kib);
    if (file != nullptr) std::fclose(file);
    return kib;
  }

  std::optional<TrackerRig> rig_;
};

TEST_F(UffdWpTrackerTest, TheListOfAQuietTargetIsWhatTheBitsSay) {
  StartWith(512);
  // The first round of an epoch scans, the others have the list alone.
  ASSERT_TRUE(rig().tracker().TakeRunning(rig().Maps()).ok());
  std::mt19937_64 random(71);
  for (int round = 0; round < 20; ++round) {
    EXPECT_TRUE(UnprotectedIn(Arena(512)).empty());
    PageSet written;
    for (int i = random() % 40; i >= 0; --i) {
      const uint64_t page = random() % 512;
      rig().Do("poke %lx %lx", kArena + page * kPageSize + 9, random() % 256);
      written.Add({kArena / kPageSize + page, 1});
    }
    EXPECT_EQ(UnprotectedIn(Arena(512)), written);
    auto taken = rig().tracker().TakeRunning(rig().Maps());
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(In(Arena(512), taken->written), written);
  }
}

TEST_F(UffdWpTrackerTest, PagesNewInHolesAreFoundByTheFirstRoundOrAtTheFreeze) {
  rig().Do("map %lx 100 %x anon", kArena, kRw);
  rig().Do("fill %lx 10 1", kArena);
  rig().Arm();
  rig().Epoch();
  rig().Do("fill %lx 10 1", kArena + 32 * kPageSize);
  auto first = rig().tracker().TakeRunning(rig().Maps());
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(In(Arena(256), first->written).page_count(), 16u);
  rig().tracker().PutBack(first->written);
  rig().Do("fill %lx 10 1", kArena + 64 * kPageSize);
  const TakenPages taken = rig().Epoch({.running_rounds = 1});
  EXPECT_EQ(In(Arena(256), taken.written).page_count(), 32u);
}

TEST_F(UffdWpTrackerTest, AKernelReadIntoManyArmedPagesIsNotCutShort) {
  StartWith(128);
  rig().Do("sysread %lx %lx", kArena + 7, 100 * kPageSize);  // An error if it came short.
  PageSet expected;
  expected.Add(Arena(101));
  EXPECT_EQ(In(Arena(128), rig().Epoch({.running_rounds = 1}).written), expected);
}

TEST_F(UffdWpTrackerTest, EightThreadsHammerWhileEpochsAreTaken) {
  StartWith(256);
  rig().Do("scribble %lx 100 8", kArena);
  for (int epoch = 0; epoch < 30 && !HasFailure(); ++epoch) {
    rig().Epoch({.running_rounds = epoch % 4, .arm_new = epoch % 3 == 0, .fail = epoch % 5 == 2});
  }
  rig().Do("calm");
  rig().Epoch();
  EXPECT_TRUE(In(Arena(256), rig().Epoch().written).empty());
  // And it may end in the middle of that.
  rig().Do("scribble %lx 100 8", kArena);
  ASSERT_TRUE(rig().tracker().TakeRunning(rig().Maps()).ok());
  rig().Kill();
  EXPECT_FALSE(rig().tracker().TakeFrozen({}).ok());
}

TEST_F(UffdWpTrackerTest, AFreezeComesWhileThreadsWaitForAnAnswer) {
  StartWith(256);
  ArmFaultPoints("tracker.serve_fault=sleep");  // Answers take 200 ms.
  rig().Do("scribble %lx 100 8", kArena);
  usleep(20'000);
  const Stopwatch watch;
  {
    auto frozen = FrozenProcess::Freeze(rig().process());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    EXPECT_LT(watch.elapsed_us(), 150'000);  // It did not wait for one.
  }
  ArmFaultPoints("");
  rig().Epoch({.running_rounds = 2});
  rig().Do("calm");
  rig().Epoch();
}

TEST_F(UffdWpTrackerTest, WhenAnsweringFailsTheTargetRunsOnAndTakesFail) {
  StartWith(64);
  ArmFaultPoints("tracker.serve_fault=error");
  rig().Do("fill %lx 40 9", kArena);  // Would hang.
  const absl::Status running = rig().tracker().TakeRunning(rig().Maps()).status();
  EXPECT_TRUE(absl::StrContains(running.message(), "serves write faults")) << running;
  {
    auto frozen = FrozenProcess::Freeze(rig().process());
    EXPECT_FALSE(rig().tracker().TakeFrozen(rig().Maps()).ok());
  }
  rig().tracker().EpochFailed();
  ArmFaultPoints("");
  rig().Arm();  // As a session does then.
  rig().Epoch({.running_rounds = 1});
  rig().Do("poke %lx 1", kArena);
  EXPECT_EQ(In(Arena(64), rig().Epoch().written).page_count(), 1u);
}

TEST_F(UffdWpTrackerTest, WhenTheTrackerGoesTheTargetRunsOnAndANewOneBeginsAnew) {
  StartWith(64);
  for (int i = 0; i < 5; ++i) {
    rig().Do("scribble %lx 40 4", kArena);
    usleep(1000);
    rig().Arm();  // Ends the old one first, with faults outstanding.
    rig().Epoch({.running_rounds = 1, .arm_new = i % 2 == 0});
    rig().Epoch();
    rig().Do("calm");
    rig().Epoch();
    EXPECT_TRUE(In(Arena(64), rig().Epoch().written).empty());
  }
}

TEST_F(UffdWpTrackerTest, AReservationOf16TiBTakesNeitherTimeNorPageTables) {
  auto scanner = PagemapScanner::Open(rig().process());
  ASSERT_TRUE(scanner.ok());
  if (!scanner->can_scan()) GTEST_SKIP() << "no PAGEMAP_SCAN: every entry must be read, 8 bytes a page";
  StartWith(4);
  const uint64_t pages = (16ul << 40) / kPageSize;
  rig().Do("map %lx %lx %x noreserve", kOther, pages, kRw);
  rig().Do("poke %lx 1", kOther + (3ul << 40));
  const long before = PageTableKib();
  for (int i = 0; i < 2; ++i) {  // Registered and armed; then a page in it found again.
    const Stopwatch watch;
    auto running = rig().tracker().TakeRunning(rig().Maps());
    ASSERT_TRUE(running.ok());
    auto frozen = FrozenProcess::Freeze(rig().process());
    ASSERT_TRUE(frozen.ok());
    auto taken = rig().tracker().TakeFrozen(rig().Maps());
    ASSERT_TRUE(taken.ok());
    taken->written.Add(running->written);
    EXPECT_EQ(In({kOther / kPageSize, pages}, taken->written).page_count(), 1u);
    EXPECT_LT(watch.elapsed_us(), 500'000);
    ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
    rig().tracker().EpochDurable();
    rig().Do("poke %lx 1", kOther + (3ul << 40));
  }
  EXPECT_LE(PageTableKib(), before + 64);
}

TEST_F(UffdWpTrackerTest, MemoryOfTheTargetsOwnUserfaultfdIsNeverArmed) {
  StartWith(16);
  ASSERT_EQ(rig().Try("uffd %lx 4", kArena + 32 * kPageSize), -EINVAL);  // Nothing is mapped there.
  rig().Do("map %lx 8 %x anon", kOther, kRw);
  rig().Do("fill %lx 8 1", kOther);
  ASSERT_EQ(rig().Try("uffd %lx 4", kOther), 0);
  for (int i = 0; i < 3; ++i) {
    rig().Epoch({.running_rounds = 1, .arm_new = true});
    EXPECT_EQ(UnprotectedIn({kOther / kPageSize, 4}).page_count(), 4u);
    rig().Do("fill %lx 8 %x", kOther, i);  // Would wait for an answer from itself.
  }
}

}  // namespace
}  // namespace incr
