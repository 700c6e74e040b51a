// The contract of write_tracker.h, promise by promise, over every back end.
// Every Epoch() also checks the whole image against the target's memory.
#include "tracker/write_tracker.h"

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/kernel_abi.h"
#include "process/pagemap_scan.h"
#include "process/soft_dirty.h"
#include "process/zero_page.h"
#include "tracker/torture_machine.h"
#include "tracker/tracker_rig.h"

namespace incr {
namespace {

constexpr uint64_t kArena = 0x200000000000;
constexpr uint64_t kOther = 0x210000000000;
constexpr int kRw = PROT_READ | PROT_WRITE;

constexpr uint64_t P(uint64_t address) { return address / kPageSize; }
PageRange Pages(uint64_t address, uint64_t count) { return {P(address), count}; }
uint64_t Page(uint64_t n) { return kArena + n * kPageSize; }

PageSet Set(std::initializer_list<PageRange> ranges) {
  PageSet set;
  for (PageRange r : ranges) set.Add(r);
  return set;
}
PageSet InArena(const PageSet& pages, uint64_t count = 1 << 20) {
  return pages.Intersect(Set({Pages(kArena, count)}));
}

class WriteTrackerTest : public ::testing::TestWithParam<BackEnd> {
 protected:
  void SetUp() override {
    if (const absl::Status works = GetParam().Works(); !works.ok()) GTEST_SKIP() << works;
    rig_.emplace(GetParam());
  }
  // Does this back end tell a dropped private copy from a swapped one? If not it is saved.
  bool sees_markers() const { return GetParam().sees_markers(); }
  bool compares() const { return GetParam().compares(); }
  // Is memory that was only read empty? Else it is content, of zeros.
  bool reading_leaves_empty() const {
    return !GetParam().takes_zero_page() && KernelMapsZeroPage();
  }
  bool takes_file_copies() const { return GetParam().takes_file_copies(); }
  // `expected` and no others, unless they are taken each time.
  void ExpectFileCopiesWritten(const PageSet& written, const PageSet& expected) {
    if (takes_file_copies()) {
      EXPECT_EQ(written.Intersect(expected), expected);
    } else {
      EXPECT_EQ(written, expected);
    }
  }
  TrackerRig& rig() { return *rig_; }

  // Anonymous memory with content, and a first durable epoch.
  void StartWith(uint64_t pages, const char* kind = "anon") {
    rig().Do("map %lx %lx %x %s", kArena, pages, kRw, kind);
    rig().Do("fill %lx %lx 1", kArena, pages);
    rig().Arm();
    ASSERT_NO_FATAL_FAILURE(rig().Epoch());
  }

  std::optional<TrackerRig> rig_;
};

INSTANTIATE_TEST_SUITE_P(BackEnds, WriteTrackerTest, ::testing::ValuesIn(AllBackEnds()),
                         [](const auto& info) { return info.param.name; });

TEST_P(WriteTrackerTest, FirstEpochTakesAllThatIsThere) {
  rig().Do("map %lx 8 %x anon", kArena, kRw);
  rig().Do("fill %lx 3 1", Page(2));
  rig().Arm();
  const TakenPages taken = rig().Epoch();
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(2), 3)}));
  EXPECT_TRUE(taken.gone.empty());
  EXPECT_GE(taken.pages_scanned, taken.written.page_count());
  EXPECT_GT(taken.written.page_count(), 10u);  // Stack, heap, data of libraries.
}

TEST_P(WriteTrackerTest, OnlyPagesWrittenSinceAreTakenAgain) {
  StartWith(64);
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
  rig().Do("poke %lx 7f", Page(5));
  rig().Do("poke %lx 7f", Page(40) + 4095);
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(5), 1), Pages(Page(40), 1)}));
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
}

TEST_P(WriteTrackerTest, CleanTextIsNotTakenAndAPrivateCopyIs) {
  rig().Do("map %lx 8 %x file 2", kArena, kRw);
  rig().Do("peek %lx 8", kArena);
  rig().Arm();
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
  rig().Do("poke %lx 7f", Page(3));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1)}));
  EXPECT_EQ(InArena(rig().Epoch().written).empty(), !takes_file_copies());
}

TEST_P(WriteTrackerTest, APrivateCopyThatIsDroppedIsTheFilesAgain) {
  StartWith(8, "file");
  rig().Do("advise %lx 2 %x", Page(1), MADV_DONTNEED);
  const PageSet gone = rig().Epoch().gone;
  if (sees_markers()) {
    EXPECT_EQ(gone, Set({Pages(Page(1), 2)}));
  }
  rig().Do("peek %lx 8", kArena);
  const PageSet gone_later = rig().Epoch().gone;
  EXPECT_EQ(gone_later.empty(), sees_markers());
  rig().Do("poke %lx 55", Page(1));
  ExpectFileCopiesWritten(InArena(rig().Epoch({.deep = true}).written), Set({Pages(Page(1), 1)}));
}

TEST_P(WriteTrackerTest, APrivateCopyDroppedAndReadAtOnceIsGone) {
  StartWith(8, "file");
  rig().Do("advise %lx 2 %x", Page(1), MADV_DONTNEED);
  rig().Do("peek %lx 8", kArena);
  EXPECT_EQ(rig().Epoch().gone, Set({Pages(Page(1), 2)}));
}

TEST_P(WriteTrackerTest, DroppedPagesAreGone) {
  StartWith(16);
  rig().Do("advise %lx 3 %x", Page(4), MADV_DONTNEED);
  EXPECT_EQ(InArena(rig().Epoch().gone), Set({Pages(Page(4), 3)}));
  EXPECT_TRUE(InArena(rig().Epoch().gone).empty());
}

TEST_P(WriteTrackerTest, DroppedPagesThatAreReadAreZero) {
  StartWith(16);
  rig().Do("advise %lx 3 %x", Page(4), MADV_DONTNEED);
  rig().Do("peek %lx 10", kArena);
  const TakenPages taken = rig().Epoch();  // Which checks the image.
  const PageSet dropped = Set({Pages(Page(4), 3)});
  EXPECT_EQ(InArena(taken.gone), reading_leaves_empty() ? dropped : PageSet());
  EXPECT_EQ(InArena(taken.written), reading_leaves_empty() ? PageSet() : dropped);
  rig().Epoch({.deep = true});
}

TEST_P(WriteTrackerTest, ReadingEmptyMemoryMakesNothingDirty) {
  StartWith(1);
  rig().Do("map %lx 100 %x anon", Page(100), kRw);
  rig().Do("peek %lx 100", Page(100));
  const TakenPages taken = rig().Epoch({.running_rounds = 1, .arm_new = true});
  EXPECT_EQ(InArena(taken.written),
            reading_leaves_empty() ? PageSet() : Set({Pages(Page(100), 0x100)}));
}

TEST_P(WriteTrackerTest, DroppedAndRewrittenPagesAreTaken) {
  StartWith(16);
  rig().Do("advise %lx 3 %x", Page(4), MADV_DONTNEED);
  rig().Do("poke %lx 1", Page(5));
  const TakenPages taken = rig().Epoch();
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(5), 1)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(Page(4), 1), Pages(Page(6), 1)}));
}

TEST_P(WriteTrackerTest, FreedPagesKeepTheImageTrue) {
  StartWith(16);
  rig().Do("advise %lx 8 %x", Page(4), MADV_FREE);
  rig().Do("poke %lx 1", Page(5));
  rig().Epoch();
  rig().Try("advise %lx 8 %x", Page(4), 21 /* MADV_PAGEOUT: reclaims what is free */);
  rig().Epoch();
  rig().Epoch({.deep = true});
}

TEST_P(WriteTrackerTest, NewMemoryIsTakenWhole) {
  StartWith(4);
  rig().Do("map %lx 6 %x anon", Page(100), kRw);
  rig().Do("fill %lx 6 9", Page(100));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(100), 6)}));
  rig().Do("poke %lx 1", Page(103));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(103), 1)}));
}

TEST_P(WriteTrackerTest, NewMemoryThatWasArmedIsCopiedWhileTheTargetRuns) {
  StartWith(4);
  rig().Do("map %lx 100 %x anon", Page(100), kRw);
  rig().Do("fill %lx 100 9", Page(100));
  auto unarmed = rig().tracker().CountUnarmed(rig().Maps());
  ASSERT_TRUE(unarmed.ok());
  if (GetParam().soft_dirty()) {  // Counts all that a freeze would have to take, the stack's pages too.
    EXPECT_GE(*unarmed, 256u);
    EXPECT_LT(*unarmed, 256u + 64);
  } else if (!compares()) {
    EXPECT_EQ(*unarmed, 256u);
  }
  const TakenPages running = rig().Epoch({.running_rounds = 1, .arm_new = true, .fail = true});
  EXPECT_EQ(InArena(running.written), Set({Pages(Page(100), 256)}));
  rig().Do("poke %lx 1", Page(101));
  // The failed epoch's come in the running round, only one page is left for the freeze.
  TakenPages all = rig().Epoch({.running_rounds = 1, .before_freeze = [&] {
                                  rig().Do("poke %lx 2", Page(102));
                                }});
  EXPECT_EQ(InArena(all.written).page_count(), 256u);
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
}

TEST_P(WriteTrackerTest, NewMemoryAtAnOldAddressIsTakenWhole) {
  StartWith(8);
  rig().Do("unmap %lx 8", kArena);
  rig().Do("map %lx 8 %x anon", kArena, kRw);
  rig().Do("fill %lx 4 77", Page(2));
  const TakenPages taken = rig().Epoch();
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(2), 4)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(kArena, 2), Pages(Page(6), 2)}));
}

TEST_P(WriteTrackerTest, AnotherKindOfMappingAtAnOldAddressLeavesNothingOfTheOldOne) {
  StartWith(8);
  rig().Do("map %lx 8 %x file", kArena, kRw);
  rig().Do("peek %lx 4", kArena);
  rig().Do("poke %lx 1", Page(7));
  TakenPages taken = rig().Epoch();
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(7), 1)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(kArena, 7)}));

  rig().Do("map %lx 8 %x shared", kArena, kRw);
  rig().Do("poke %lx 1", Page(2));
  taken = rig().Epoch();
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(2), 1)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(Page(7), 1)}));

  rig().Do("map %lx 8 %x sharedfile", kArena, PROT_READ);
  EXPECT_EQ(InArena(rig().Epoch().gone), Set({Pages(Page(2), 1)}));
}

TEST_P(WriteTrackerTest, UnmappedPagesAreGone) {
  StartWith(8);
  rig().Do("unmap %lx 2", Page(3));
  EXPECT_EQ(rig().Epoch().gone, Set({Pages(Page(3), 2)}));
}

TEST_P(WriteTrackerTest, MovedMemoryIsTakenAtItsNewPlaceAndGoneFromTheOld) {
  StartWith(8);
  rig().Do("move %lx 8 %lx 8", kArena, kOther);
  const TakenPages taken = rig().Epoch();
  EXPECT_EQ(taken.gone, Set({Pages(kArena, 8)}));
  EXPECT_EQ(taken.written.Intersect(Set({Pages(kOther, 8)})).page_count(), 8u);
}

TEST_P(WriteTrackerTest, CleanMemoryMovedOntoKnownPagesReplacesThem) {
  // Both places known, both armed: the moved pages look clean to a kernel that carries bits along.
  rig().Do("map %lx 8 %x anon", kOther, kRw);
  rig().Do("fill %lx 8 500", kOther);
  StartWith(8);
  rig().Do("move %lx 8 %lx 8", kArena, kOther);
  rig().Epoch();
  rig().Do("map %lx 8 %x anon", kArena, kRw);
  rig().Do("fill %lx 8 600", kArena);
  rig().Epoch();
  rig().Do("move %lx 4 %lx 4", Page(2), kOther + 2 * kPageSize);
  rig().Epoch({.running_rounds = 2});
}

// 2 MiB and more, aligned: the kernel moves page tables, not pages, and marks nothing as written.
TEST_P(WriteTrackerTest, WholePageTablesMovedOntoKnownPagesReplaceThem) {
  for (const uint64_t place : {kArena, kOther}) {
    rig().Do("map %lx 400 %x anon", place, kRw);
    rig().Do("advise %lx 400 %x", place, MADV_NOHUGEPAGE);
    rig().Do("fill %lx 400 %lx", place, place >> 20);
  }
  rig().Arm();
  rig().Epoch();
  rig().Do("move %lx 400 %lx 400", kOther, kArena);
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(kArena, 1024)}));
  rig().Do("move %lx 400 %lx 400", kArena, kOther);
  rig().Epoch({.running_rounds = 1, .arm_new = true, .fail = true});
  rig().Do("move %lx 400 %lx 400", kOther, kArena);
  rig().Epoch({.running_rounds = 1});
}

TEST_P(WriteTrackerTest, MemoryMadeAnewInItsOldPlaceIsZeroEvenIfItLooksAsBefore) {
  StartWith(8);
  // A new mapping, hardly written, that mprotect merges with what is known: at the freeze the map is as
  // before, and so may be the bits.
  for (const bool new_one_is_protected : {true, false}) {
    if (!new_one_is_protected) rig().Do("protect %lx 4 %x", kArena, PROT_READ);
    rig().Do("unmap %lx 4", Page(4));
    rig().Do("map %lx 4 %x anon", Page(4), new_one_is_protected ? PROT_READ : kRw);
    if (!new_one_is_protected) rig().Do("poke %lx 1", Page(7));  // Else they do not merge.
    rig().Do("peek %lx 4", Page(4));
    rig().Do("protect %lx 4 %x", new_one_is_protected ? Page(4) : kArena, kRw);
    // (Not with memory that is registered with a userfaultfd.)
    EXPECT_TRUE(rig().MappingAt(kArena).end == Page(8) || GetParam().uses_userfaultfd());
    rig().Epoch();
    rig().Do("fill %lx 8 99", kArena);
    rig().Epoch();
  }
}

// The kernel gives many pages of one content one frame, and says nothing of what was written to them before.
TEST_P(WriteTrackerTest, PagesMergedByTheKernelAreNotMissed) {
  const auto ksm = ReadWholeFile("/sys/kernel/mm/ksm/run");
  if (!ksm.ok() || *ksm != "1\n") GTEST_SKIP() << "KSM does not run here (/sys/kernel/mm/ksm/run)";
  rig().Do("map %lx 20 %x anon", kArena, kRw);
  for (int i = 0; i < 32; ++i) rig().Do("poke %lx 1", Page(i));
  rig().Arm();
  rig().Epoch();
  for (int i = 0; i < 32; ++i) rig().Do("poke %lx 2", Page(i));
  rig().Do("advise %lx 20 %x", kArena, MADV_MERGEABLE);
  auto scanner = PagemapScanner::Open(rig().process());
  ASSERT_TRUE(scanner.ok());
  uint64_t entries[2] = {0, 1};
  for (int i = 0; i < 300 && (entries[0] ^ entries[1]) << 9 != 0; ++i) {
    usleep(100'000);
    ASSERT_TRUE(scanner->ReadEntries(Pages(Page(7), 2), entries).ok());
  }
  if ((entries[0] ^ entries[1]) << 9 != 0) GTEST_SKIP() << "KSM has merged nothing in 30 s";
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(kArena, 32)}));
  rig().Do("poke %lx 3", Page(5));
  rig().Do("advise %lx 20 %x", kArena, 13 /* MADV_UNMERGEABLE */);
  EXPECT_TRUE(rig().Epoch().written.Contains(P(Page(5))));
}

TEST_P(WriteTrackerTest, AMoveBesideTrackedMemoryHidesNoWriteToIt) {
  StartWith(8);
  rig().Do("move %lx 4 %lx 4", Page(4), kOther);
  rig().Epoch();
  // They merge, the kernel drops the registration of both and leaves the neighbour's bits.
  rig().Do("move %lx 4 %lx 4", kOther, Page(4));
  rig().Do("poke %lx 1", Page(1));
  for (int i = 0; i < 6; ++i) {
    EXPECT_TRUE(rig().Epoch({.running_rounds = i % 3, .fail = i % 2 == 1})
                    .written.Contains(P(Page(1))));
    rig().Do("poke %lx %x", Page(1), 2 + i);
  }
}

TEST_P(WriteTrackerTest, AMappingLeftEmptyByAMoveIsGone) {
  StartWith(8);
  rig().Do("leave %lx 8 %lx", kArena, kOther);
  rig().Do("poke %lx 1", Page(3));
  const TakenPages taken = rig().Epoch();
  EXPECT_EQ(InArena(taken.gone).page_count(), 7u);
  rig().Do("poke %lx 2", Page(4));
  rig().Do("poke %lx 2", kOther);
  rig().Epoch();
}

TEST_P(WriteTrackerTest, MemoryGrownInPlaceIsTracked) {
  StartWith(8);
  rig().Do("resize %lx 8 10", kArena);
  rig().Do("fill %lx 4 9", Page(9));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(9), 4)}));
  rig().Do("resize %lx 10 4", kArena);
  EXPECT_EQ(InArena(rig().Epoch().gone).page_count(), 8u);
}

TEST_P(WriteTrackerTest, TheHeapAndTheStackGrowUnderWatch) {
  StartWith(1);
  for (int i = 1; i < 4; ++i) {
    const uint64_t old_break = rig().Do("brk 10");
    rig().Do("fill %lx 10 %x", old_break, i);
    rig().Do("stack %x", i * 64);
    const TakenPages taken = rig().Epoch({.running_rounds = i % 2});
    EXPECT_EQ(taken.written.Intersect(Set({Pages(old_break, 16)})).page_count(), 16u);
  }
  rig().Do("brk -8");
  EXPECT_GE(rig().Epoch().gone.page_count(), 8u);
}

TEST_P(WriteTrackerTest, ProtectionChangesHideNothing) {
  StartWith(16);
  rig().Do("protect %lx 4 %x", Page(2), PROT_READ);
  rig().Do("protect %lx 4 0", Page(8));
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
  rig().Do("protect %lx 10 %x", kArena, kRw);
  rig().Do("poke %lx 1", Page(3));
  rig().Do("poke %lx 1", Page(9));
  rig().Do("poke %lx 1", Page(15));
  EXPECT_EQ(InArena(rig().Epoch().written),
            Set({Pages(Page(3), 1), Pages(Page(9), 1), Pages(Page(15), 1)}));
}

TEST_P(WriteTrackerTest, MemoryWithoutPermissionsIsSavedToo) {
  StartWith(8);
  rig().Do("poke %lx 2", Page(1));
  rig().Do("poke %lx 2", Page(5));
  rig().Do("protect %lx 8 0", kArena);
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(1), 1), Pages(Page(5), 1)}));
}

TEST_P(WriteTrackerTest, HugePagesAreTracked) {
  constexpr uint64_t kHuge = 0x200000000000 + (4ull << 20);
  rig().Do("map %lx 800 %x anon", kHuge, kRw);
  if (rig().Try("advise %lx 800 %x", kHuge, MADV_HUGEPAGE) < 0) GTEST_SKIP() << "no huge pages";
  rig().Do("fill %lx 800 1", kHuge);
  rig().Arm();
  EXPECT_EQ(InArena(rig().Epoch({.running_rounds = 1}).written).page_count(), 2048u);
  rig().Do("poke %lx 1", kHuge + 3 * kPageSize);
  EXPECT_EQ(InArena(rig().Epoch().written), GetParam().takes_huge_pages_whole()
                                                ? Set({Pages(kHuge, 512)})
                                                : Set({Pages(kHuge + 3 * kPageSize, 1)}));
  // A whole huge page, and part of one.
  rig().Do("advise %lx 200 %x", kHuge + (2 << 20), MADV_DONTNEED);
  rig().Do("advise %lx 4 %x", kHuge + (4 << 20) + 8 * kPageSize, MADV_DONTNEED);
  EXPECT_EQ(InArena(rig().Epoch().gone).page_count(), 512u + 4);
  rig().Do("poke %lx 1", kHuge + (2 << 20) + kPageSize);
  EXPECT_TRUE(rig().Epoch().written.Contains(P(kHuge + (2 << 20) + kPageSize)));
  rig().Try("advise %lx 200 %x", kHuge, MADV_COLLAPSE);
  rig().Epoch();
  rig().Do("move %lx 400 %lx 400", kHuge, kOther);
  rig().Epoch();
}

TEST_P(WriteTrackerTest, GuardPagesHaveNoContent) {
  StartWith(8);
  if (rig().Try("advise %lx 2 %x", Page(2), MADV_GUARD_INSTALL) < 0) {
    GTEST_SKIP() << "no guard pages before Linux 6.13";
  }
  const TakenPages taken = rig().Epoch({.running_rounds = 1});
  if (sees_markers()) {
    EXPECT_EQ(InArena(taken.gone), Set({Pages(Page(2), 2)}));
    EXPECT_TRUE(InArena(taken.written).empty());
  }
  rig().Epoch({.running_rounds = 1});
  rig().Do("advise %lx 2 %x", Page(2), MADV_GUARD_REMOVE);
  rig().Do("poke %lx 1", Page(3));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1)}));
}

// The kernel tries for ever to put a guard where a tracked page of a file was: until the next freeze.
TEST_P(WriteTrackerTest, AGuardOverATrackedFileIsInstalledInTheEnd) {
  StartWith(8, "file");
  rig().Epoch();
  long result = -1;
  std::thread installs(
      [&] { result = rig().Try("advise %lx 2 %x", Page(2), MADV_GUARD_INSTALL); });
  usleep(50'000);
  rig().Epoch();
  installs.join();
  if (result == -EINVAL) GTEST_SKIP() << "no guards over files before Linux 6.15";
  EXPECT_EQ(result, 0);
  rig().Epoch();
}

TEST_P(WriteTrackerTest, SharedMemoryWrittenByOthersIsTaken) {
  StartWith(8, "shared");
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
  // This process is the other one: through the object, not through the target's page tables.
  const std::string object = rig().process().ProcPath(
      absl::StrFormat("map_files/%x-%x", kArena, Page(8)));
  const ScopedFd fd(open(object.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(fd.ok()) << strerror(errno);
  ASSERT_EQ(pwrite(fd.get(), "other", 5, 3 * kPageSize + 100), 5);
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1)}));
  rig().Do("poke %lx 1", Page(4));
  EXPECT_EQ(InArena(rig().Epoch({.running_rounds = 1}).written), Set({Pages(Page(4), 1)}));
}

TEST_P(WriteTrackerTest, SharedPagesThatOnlyOthersTouchedAreTakenAndHolesAreNot) {
  rig().Do("map %lx 8 %x shared", kArena, kRw);
  rig().Arm();
  const std::string object = rig().process().ProcPath(
      absl::StrFormat("map_files/%x-%x", kArena, Page(8)));
  const ScopedFd fd(open(object.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(pwrite(fd.get(), "other", 5, 3 * kPageSize + 100), 5);
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1)}));
  struct stat facts;
  ASSERT_EQ(fstat(fd.get(), &facts), 0);
  EXPECT_EQ(facts.st_blocks, 8);  // Looking has populated nothing.
}

TEST_P(WriteTrackerTest, SharedMemoryThatIsPunchedIsGone) {
  StartWith(8, "shared");
  rig().Do("advise %lx 2 %x", Page(3), MADV_REMOVE);
  EXPECT_EQ(InArena(rig().Epoch().gone), Set({Pages(Page(3), 2)}));
  rig().Do("advise %lx 2 %x", Page(5), MADV_DONTNEED);  // Drops nothing: the object has it.
  EXPECT_TRUE(InArena(rig().Epoch().gone).empty());
}

TEST_P(WriteTrackerTest, SharedMemoryMappedTwiceIsTakenAtBothPlaces) {
  rig().Do("map %lx 4 %x sharedfile", kArena, kRw);
  rig().Do("map %lx 4 %x sharedfile 1", kOther, kRw);
  rig().Arm();
  rig().Epoch();
  rig().Do("poke %lx 1", Page(2));
  const TakenPages taken = rig().Epoch();
  EXPECT_TRUE(taken.written.Contains(P(Page(2))));
  EXPECT_TRUE(taken.written.Contains(P(kOther + kPageSize)));
}

TEST_P(WriteTrackerTest, NeighboursThatMergeInTheFreezeKeepTheirFile) {
  rig().Do("map %lx 4 %x file 0", kArena, kRw);
  rig().Do("map %lx 4 %x sharedfile 8", kOther, kRw);
  rig().Arm();
  rig().Epoch();
  // Not registered, so not merged yet; at the freeze the Take registers and the kernel merges.
  rig().Do("map %lx 4 %x file 4", Page(4), kRw);
  rig().Do("map %lx 4 %x sharedfile c", kOther + 4 * kPageSize, kRw);
  rig().Do("fill %lx 1 5", Page(4));
  rig().Do("fill %lx 2 5", kOther + 3 * kPageSize);
  EXPECT_EQ(InArena(rig().Epoch({.deep = true}).written), Set({Pages(Page(4), 1)}));
  EXPECT_EQ(rig().MappingAt(kArena).end, Page(8));
}

TEST_P(WriteTrackerTest, ASharedFileEndsWhereItEnds) {
  rig().Do("map %lx 14 %x sharedfile", kArena, kRw);  // 20 pages of a file of 16 and a bit
  rig().Arm();
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(kArena, 17)}));
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
  // Beyond the end, but in the last page: no read(2) of the file shows it.
  rig().Do("poke %lx 1", Page(16) + 3000);
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(16), 1)}));
  rig().Do("truncate 8 0");
  EXPECT_EQ(InArena(rig().Epoch().gone), Set({Pages(Page(8), 9)}));
  rig().Do("truncate 20 0");
  rig().Do("poke %lx 1", Page(18));
  EXPECT_TRUE(InArena(rig().Epoch().written).Contains(P(Page(18))));
}

TEST_P(WriteTrackerTest, AFileTruncatedUnderAPrivateMappingTakesItsCopiesAlong) {
  StartWith(16, "file");
  rig().Do("truncate 8 0");
  const PageSet gone = InArena(rig().Epoch().gone);
  if (sees_markers()) {
    EXPECT_EQ(gone, Set({Pages(Page(8), 8)}));
  }
  rig().Do("truncate 10 0");
  rig().Do("poke %lx 1", Page(12));
  const PageSet written = InArena(rig().Epoch().written);
  EXPECT_TRUE(written.Contains(P(Page(12))));
  EXPECT_TRUE(!sees_markers() || takes_file_copies() || written.page_count() == 1);
}

TEST_P(WriteTrackerTest, ZeroDeviceMemoryIsAnonymousMemory) {
  StartWith(8, "zero");
  rig().Do("poke %lx 1", Page(3));
  rig().Do("advise %lx 1 %x", Page(4), MADV_DONTNEED);
  const TakenPages taken = rig().Epoch({.deep = true});
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(3), 1)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(Page(4), 1)}));
}

TEST_P(WriteTrackerTest, AForkHidesNothing) {
  StartWith(16);
  rig().Do("fork");
  rig().Do("poke %lx 1", Page(3));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1)}));
  rig().Do("poke %lx 2", Page(3));
  rig().Do("reap");
  rig().Do("poke %lx 2", Page(5));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1), Pages(Page(5), 1)}));
}

TEST_P(WriteTrackerTest, WritesByTheKernelAndByOtherProcessesAreTaken) {
  StartWith(16);
  rig().Do("sysread %lx 1800", Page(3) + 100);
  iovec local{const_cast<char*>("poked"), 5};
  iovec remote{reinterpret_cast<void*>(Page(9) + 50), 5};
  ASSERT_EQ(process_vm_writev(rig().process().pid(), &local, 1, &remote, 1, 0), 5);
  const ScopedFd mem(open(rig().process().ProcPath("mem").c_str(), O_RDWR | O_CLOEXEC));
  PageSet expected = Set({Pages(Page(3), 2), Pages(Page(9), 1)});
  const ssize_t forced = pwrite(mem.get(), "poked", 5, Page(12));
  if (GetParam().refuses_forced_writes()) {
    EXPECT_EQ(forced, -1);  // Told to whoever wrote.
  } else {
    EXPECT_EQ(forced, 5);
    expected.Add(Pages(Page(12), 1));
  }
  EXPECT_EQ(InArena(rig().Epoch().written), expected);
}

// Bytes that the kernel puts there for the program, by each of its ways.
TEST_P(WriteTrackerTest, WhatSystemCallsReadIntoMemoryIsTaken) {
  StartWith(16);
  uint64_t page = 1;
  PageSet read;
  for (const char* call : {"recvmsg", "preadv", "uring", "aio"}) {
    if (const long result = rig().Try("%s %lx 1800", call, Page(page) + 100); result < 0) {
      std::printf("SKIPPED: %s: %s\n", call, strerror(static_cast<int>(-result)));
    } else {
      read.Add(Pages(Page(page), 2));
    }
    page += 3;
  }
  EXPECT_EQ(InArena(rig().Epoch().written), read);
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
}

TEST_P(WriteTrackerTest, WhatAVforkChildWritesIsTaken) {
  StartWith(16);
  rig().Do("vfork %lx 2 77", Page(3));
  EXPECT_EQ(InArena(rig().Epoch({.running_rounds = 1}).written), Set({Pages(Page(3), 2)}));
}

TEST_P(WriteTrackerTest, WhatADebuggerPokesIsTaken) {
  StartWith(16);
  const pid_t pid = rig().process().pid();
  ASSERT_EQ(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr), 0);
  ASSERT_EQ(ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr), 0);
  ASSERT_EQ(waitpid(pid, nullptr, __WALL), pid);
  const bool poked = ptrace(PTRACE_POKEDATA, pid, Page(7) + 8, 0x77) == 0;
  ASSERT_EQ(ptrace(PTRACE_DETACH, pid, nullptr, nullptr), 0);
  EXPECT_EQ(poked, !GetParam().refuses_forced_writes());
  EXPECT_EQ(InArena(rig().Epoch().written), poked ? Set({Pages(Page(7), 1)}) : PageSet());
}

TEST_P(WriteTrackerTest, WhatForkLeavesOutOfTheChildStaysWithTheParent) {
  StartWith(16);
  rig().Do("advise %lx 4 %x", Page(2), MADV_DONTFORK);
  rig().Do("advise %lx 4 %x", Page(8), MADV_WIPEONFORK);
  rig().Do("advise %lx 2 %x", Page(14), MADV_DONTDUMP);
  rig().Do("fork");
  rig().Do("poke %lx 1", Page(3));
  rig().Do("poke %lx 1", Page(9));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1), Pages(Page(9), 1)}));
  rig().Do("reap");
  rig().Do("poke %lx 2", Page(10));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(10), 1)}));
}

TEST_P(WriteTrackerTest, LockedAndMigratedMemoryIsTracked) {
  StartWith(16);
  rig().Do("lock %lx 4", Page(2));
  if (rig().Try("bind %lx 8", Page(1)) < 0) std::printf("SKIPPED: no NUMA in this kernel\n");
  rig().Epoch();  // Locking faults all in as a write would.
  rig().Do("poke %lx 1", Page(3));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 1)}));
  rig().Do("advise %lx 1 %x", Page(3), 24 /* MADV_DONTNEED_LOCKED */);
  EXPECT_EQ(InArena(rig().Epoch().gone), Set({Pages(Page(3), 1)}));
}

TEST_P(WriteTrackerTest, MemfdAndSystemVMemoryIsTakenAsItsObjectIs) {
  rig().Do("map %lx 8 %x memfd", kArena, kRw);
  rig().Do("map %lx 8 %x sysv", Page(8), kRw);
  rig().Do("map %lx 8 %x privatememfd", Page(16), kRw);
  rig().Do("fill %lx 18 1", kArena);
  rig().Arm();
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(kArena, 24)}));
  ExpectFileCopiesWritten(InArena(rig().Epoch().written), PageSet());
  for (const uint64_t at : {Page(3), Page(11), Page(19)}) rig().Do("poke %lx 1", at);
  rig().Do("advise %lx 1 %x", Page(5), MADV_REMOVE);
  rig().Do("advise %lx 1 %x", Page(13), MADV_REMOVE);
  const TakenPages taken = rig().Epoch({.running_rounds = 1});
  ExpectFileCopiesWritten(InArena(taken.written),
                          Set({Pages(Page(3), 1), Pages(Page(11), 1), Pages(Page(19), 1)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(Page(5), 1), Pages(Page(13), 1)}));
}

TEST_P(WriteTrackerTest, AHolePunchedIntoAPrivatelyMappedFileLeavesCopiesAlone) {
  StartWith(8, "file");
  rig().Do("map %lx 8 %x sharedfile", kOther, kRw);
  rig().Do("punch 2 3");
  const PageSet gone = InArena(rig().Epoch({.deep = true}).gone);
  EXPECT_TRUE(gone.empty());
}

TEST_P(WriteTrackerTest, SwappedPagesAreCleanAndKept) {
  TortureMachine machine;
  for (const std::string& what : machine.missing()) std::printf("SKIPPED: %s\n", what.c_str());
  StartWith(64);
  constexpr int kPageOut = 21;  // MADV_PAGEOUT
  for (const uint64_t written : {Page(3), Page(5)}) {
    rig().Do("advise %lx 40 %x", kArena, kPageOut);
    rig().Do("poke %lx 1", written);  // Comes in to be written.
    rig().Do("advise %lx 40 %x", kArena, kPageOut);  // And goes out dirty.
    const PageSet taken = InArena(rig().Epoch({.running_rounds = 1}).written);
    EXPECT_TRUE(taken.Contains(P(written)));
    // Where a swapped page looks like a marker it is taken each time; for soft-dirty a page in another
    // place is another page, once.
    if (sees_markers() && !GetParam().soft_dirty()) {
      EXPECT_EQ(taken.page_count(), 1u);
    }
  }
}

// KSM puts another page table entry in the place of the one that told of a write.
TEST_P(WriteTrackerTest, AWriteIsNotForgottenWhenKsmMergesThePage) {
  TortureMachine machine;
  if (!machine.missing().empty()) GTEST_SKIP() << machine.missing()[0];
  StartWith(64);
  rig().Do("advise %lx 40 %x", kArena, MADV_MERGEABLE);
  for (int i = 0; i < 64; ++i) rig().Do("fill %lx 1 9", Page(i));
  // Until some are merged; at most 3 s.
  const std::string stat = rig().process().ProcPath("ksm_merging_pages");
  int merged = 0;
  for (int i = 0; i < 300 && merged < 32; ++i) {
    usleep(10'000);
    FILE* file = fopen(stat.c_str(), "re");
    if (file == nullptr || fscanf(file, "%d", &merged) != 1) merged = -1;
    if (file != nullptr) fclose(file);
    if (merged < 0) break;
  }
  if (merged <= 0) std::printf("SKIPPED in part: KSM has merged nothing\n");
  rig().Epoch({.running_rounds = 1});
  rig().Do("poke %lx 1", Page(7));
  EXPECT_TRUE(rig().Epoch().written.Contains(P(Page(7))));
}

// With use_zero_pages KSM maps the zero page where a private copy of a file's page holds zeros: still a
// copy, not the file.
TEST_P(WriteTrackerTest, ACopyOfZerosOverAFileStaysWhenKsmMergesIt) {
  TortureMachine machine;
  if (!machine.missing().empty()) GTEST_SKIP() << machine.missing()[0];
  rig().Do("map %lx 8 %x file", kArena, kRw);
  rig().Do("zero %lx 8", kArena);
  rig().Do("advise %lx 8 %x", kArena, MADV_MERGEABLE);
  rig().Arm();
  rig().Epoch();
  usleep(1'000'000);  // KSM's two passes, where nothing else is mergeable.
  EXPECT_TRUE(InArena(rig().Epoch().gone).empty());
}

TEST_P(WriteTrackerTest, PagesOfHugetlbfsAreNeverMissed) {
  TortureMachine machine;
  constexpr uint64_t kHuge = 0x200 * kPageSize;
  for (const char* kind : {"huge", "sharedhuge"}) {
    if (rig().Try("map %lx 400 %x %s", kArena, kRw, kind) < 0) GTEST_SKIP() << "no pages for hugetlbfs";
    rig().Do("fill %lx 400 1", kArena);
    rig().Arm();
    EXPECT_EQ(InArena(rig().Epoch({.running_rounds = 1}).written), Set({Pages(kArena, 1024)}));
    rig().Do("poke %lx 1", kArena + 5 * kPageSize);
    EXPECT_TRUE(rig().Epoch({.running_rounds = 1}).written.Contains(P(kArena + 5 * kPageSize)));
    // A dropped page leaves a marker, which pagemap does not show for hugetlbfs.
    rig().Do("advise %lx 200 %x", kArena + kHuge, MADV_DONTNEED);
    rig().Epoch();
    rig().Epoch();
    rig().Do("poke %lx 1", kArena + kHuge);
    rig().Epoch();
    rig().Do("unmap %lx 400", kArena);
  }
}

TEST_P(WriteTrackerTest, AFailedEpochKeepsItsDirtyPages) {
  StartWith(16);
  rig().Do("poke %lx 1", Page(3));
  rig().Epoch({.running_rounds = 1, .fail = true});
  rig().Do("poke %lx 1", Page(4));
  rig().Epoch({.fail = true});
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 2)}));
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
}

TEST_P(WriteTrackerTest, AFailedFirstEpochIsFollowedByAFullOne) {
  rig().Do("map %lx 8 %x anon", kArena, kRw);
  rig().Do("fill %lx 8 1", kArena);
  rig().Arm();
  rig().Epoch({.running_rounds = 2, .fail = true});
  EXPECT_EQ(InArena(rig().Epoch({.running_rounds = 1}).written), Set({Pages(kArena, 8)}));
}

TEST_P(WriteTrackerTest, APageThatReturnsToItsOldContentAfterItWasCopiedIsCopiedAgain) {
  StartWith(8, "shared");
  rig().Do("map %lx 8 %x anon", Page(8), kRw);
  for (const uint64_t page : {Page(3), Page(11)}) {
    rig().Do("poke %lx 1", page);
    rig().Epoch();
    rig().Do("poke %lx 2", page);
    rig().Epoch({.fail = true});
    // Owed now; copied as 2 in the running round, but 1 at the freeze, as in the last durable epoch.
    rig().Epoch({.running_rounds = 1, .before_freeze = [&] { rig().Do("poke %lx 1", page); }});
  }
}

TEST_P(WriteTrackerTest, WhatAFailedEpochSaidIsGoneIsSaidAgain) {
  StartWith(16);
  rig().Do("advise %lx 2 %x", Page(3), MADV_DONTNEED);
  rig().Do("unmap %lx 1", Page(9));
  rig().Epoch({.fail = true});
  EXPECT_EQ(rig().Epoch().gone, Set({Pages(Page(3), 2), Pages(Page(9), 1)}));
}

TEST_P(WriteTrackerTest, PagesPutBackComeAgain) {
  StartWith(16);
  rig().tracker().PutBack(Set({Pages(Page(3), 2)}));
  const TakenPages taken = rig().Epoch({.running_rounds = 1});
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(3), 2)}));
}

TEST_P(WriteTrackerTest, ArmedWithAKnownTableOnlyTheDifferenceIsTaken) {
  StartWith(16);
  PageSet known;
  for (const auto& [page, bytes] : rig().image()) known.Add({page, 1});
  // As if the table lacked 2 of the pages, and knew 3 that the process does not have.
  known.Remove(Pages(Page(4), 2));
  known.Add(Pages(Page(64), 3));
  rig().ArmWith(known);
  TakenPages taken = rig().Epoch({.running_rounds = 1});
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(4), 2)}));
  EXPECT_EQ(InArena(taken.gone), Set({Pages(Page(64), 3)}));
  rig().Do("poke %lx 1", Page(7));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(7), 1)}));
}

TEST_P(WriteTrackerTest, ArmedWithAKnownTableSharedMemoryIsNotTakenAgain) {
  StartWith(8, "shared");
  PageSet known;
  for (const auto& [page, bytes] : rig().image()) known.Add({page, 1});
  rig().ArmWith(known);
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
  rig().Do("poke %lx 1", Page(7));
  EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(7), 1)}));
}

TEST_P(WriteTrackerTest, NoWriteIsLostWhileTheTargetWritesAtFullSpeed) {
  StartWith(2048);
  rig().Do("scribble %lx 800", kArena);
  for (int i = 0; i < 20; ++i) {
    rig().Epoch({.running_rounds = i % 4, .fail = i % 5 == 3});
    if (HasFailure()) break;
  }
  rig().Do("calm");
  rig().Epoch();
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
}

TEST_P(WriteTrackerTest, HugeReservationsCostNothing) {
  StartWith(4);
  rig().Do("map %lx %x %x noreserve", kOther, 1 << 20, kRw);  // 4 GiB
  // Where huge pages come unasked for, one write would populate 512 pages.
  rig().Do("advise %lx %x %x", kOther, 1 << 20, MADV_NOHUGEPAGE);
  rig().Do("poke %lx 1", kOther + (3ul << 30));
  const TakenPages taken = rig().Epoch({.running_rounds = 1});
  EXPECT_EQ(taken.written.Intersect(Set({Pages(kOther, 1 << 20)})).page_count(), 1u);
  // Armed holes would show as page tables: 8 MiB for 4 GiB.
  auto status = std::string(absl::StrFormat("/proc/%d/status", rig().process().pid()));
  FILE* file = fopen(status.c_str(), "re");
  ASSERT_NE(file, nullptr);
  char line[256];
  long kib = -1;
  while (fgets(line, sizeof line, file)) sscanf(line, "VmPTE: %ld", &kib);
  fclose(file);
  EXPECT_GT(kib, 0);
  EXPECT_LT(kib, 1024);
}

TEST_P(WriteTrackerTest, MemoryOwnedByTheTargetsOwnUserfaultfdIsTakenWholeEachTime) {
  rig().Do("map %lx 8 %x anon", kArena, kRw);
  rig().Do("fill %lx 8 1", kArena);
  ASSERT_EQ(rig().Try("uffd %lx 4", Page(2)), 0);
  rig().Arm();
  for (int i = 0; i < 2; ++i) {
    rig().Do("poke %lx %x", Page(3), i);
    rig().Epoch({.running_rounds = 1});
  }
  const TakenPages taken = rig().Epoch();
  if (!GetParam().uses_userfaultfd()) {
    EXPECT_TRUE(InArena(taken.written).empty());  // No back end of its own is in its way.
    return;
  }
  EXPECT_EQ(InArena(taken.written), Set({Pages(Page(2), 4)}));
  ASSERT_EQ(rig().tracker().warnings().size(), 1u);
  EXPECT_TRUE(absl::StrContains(rig().tracker().warnings()[0], "saved whole"));
}

TEST_P(WriteTrackerTest, SoftDirtyBitsClearedByOthersMakeNoWriteUnseen) {
  StartWith(16);
  rig().Do("poke %lx 1", Page(3));
  ASSERT_TRUE(ClearSoftDirty(rig().process()).ok());
  rig().Do("poke %lx 1", Page(4));
  if (!GetParam().soft_dirty()) {
    EXPECT_EQ(InArena(rig().Epoch().written), Set({Pages(Page(3), 2)}));
    return;
  }
  {
    auto frozen = FrozenProcess::Freeze(rig().process());
    ASSERT_TRUE(frozen.ok());
    const absl::Status taken = rig().tracker().TakeFrozen(rig().Maps()).status();
    EXPECT_EQ(taken.code(), absl::StatusCode::kAborted) << taken;
    EXPECT_TRUE(absl::StrContains(taken.message(), "clear_refs")) << taken;
  }
  rig().tracker().EpochFailed();
  EXPECT_EQ(InArena(rig().Epoch({.running_rounds = 1}).written), Set({Pages(kArena, 16)}));
  EXPECT_TRUE(InArena(rig().Epoch().written).empty());
}

TEST_P(WriteTrackerTest, SoftDirtyBitsClearedByOthersAreNoticedEarlyWhereItCanBe) {
  StartWith(16);
  rig().Do("poke %lx 1", Page(3));
  ASSERT_TRUE(ClearSoftDirty(rig().process()).ok());
  const TakenPages taken = rig().Epoch({.running_rounds = 1, .arm_new = true});
  EXPECT_TRUE(taken.written.Contains(P(Page(3))));
  EXPECT_EQ(rig().tracker().warnings().size(), GetParam().soft_dirty() ? 1u : 0u);
  rig().Epoch();
  EXPECT_TRUE(rig().tracker().warnings().empty());
}

TEST_P(WriteTrackerTest, ATakeThatBreaksOffMidwayOwesWhatItHadRead) {
  StartWith(16);
  int value = 1;
  for (const char* fault : {"process.soft_dirty_cleared", "tracker.soft_dirty_taken"}) {
    rig().Do("poke %lx %x", Page(3), ++value);
    {
      auto frozen = FrozenProcess::Freeze(rig().process());
      ASSERT_TRUE(frozen.ok());
      ArmFaultPoints(absl::StrCat(fault, "=error"));
      const absl::Status taken = rig().tracker().TakeFrozen(rig().Maps()).status();
      ArmFaultPoints("");
      EXPECT_EQ(taken.ok(), !GetParam().soft_dirty()) << taken;
    }
    rig().tracker().EpochFailed();
    EXPECT_TRUE(rig().Epoch().written.Contains(P(Page(3))));
    rig().Do("poke %lx %x", Page(4), ++value);
    EXPECT_TRUE(rig().Epoch().written.Contains(P(Page(4))));
  }
}

TEST_P(WriteTrackerTest, ATargetThatHasExitedIsAnErrorNotAnEmptyEpoch) {
  StartWith(4);
  const MemoryMap map = rig().Maps();
  rig().Kill();
  EXPECT_FALSE(rig().tracker().TakeFrozen(map).ok());
  auto running = rig().tracker().TakeRunning(map);
  EXPECT_TRUE(!running.ok() || running->written.empty());
}

TEST_P(WriteTrackerTest, AfterAnExecATakeIsRightOrAnError) {
  StartWith(4);
  rig().Exec();
  auto taken = rig().tracker().TakeRunning(rig().Maps());
  rig().tracker().EpochFailed();
  // Sessions start anew then. Reads of the old memory fail; what needs none finds it all new.
  if (!GetParam().reads_private_memory()) {
    rig().Epoch();
    rig().Epoch();
    return;
  }
  EXPECT_EQ(rig().tracker().TakeFrozen(rig().Maps()).status().code(), absl::StatusCode::kNotFound);
}

TEST(ChooseTrackerTest, AsksForWhatIsThere) {
  std::string why;
  auto best = ChooseTracker("", &why);
  ASSERT_TRUE(best.ok());
  EXPECT_FALSE(why.empty());
  EXPECT_EQ(*ChooseTracker("compare", &why), "compare");
  // Works, or says why it cannot: succeeding clear_refs is no proof.
  if (auto soft_dirty = ChooseTracker("soft-dirty", &why); !soft_dirty.ok()) {
    EXPECT_EQ(soft_dirty.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(soft_dirty.status().message(), "soft-dirty cannot work here: "))
        << soft_dirty.status();
  }
  const absl::Status unknown = ChooseTracker("magic", &why).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(unknown.message(), "magic"));
}

}  // namespace
}  // namespace incr
