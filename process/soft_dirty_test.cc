// The kernel facts that the tracker soft-dirty stands on (Linux 6.1): what sets the bit, and what does not though
// another page is there. A kernel that begins to set it breaks nothing: those tests look at the frame only.
#include "process/soft_dirty.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "base/file.h"
#include "base/page_range.h"
#include "gtest/gtest.h"
#include "process/kernel_abi.h"
#include "process/pagemap_scan.h"
#include "process/process_handle.h"
#include "process/tracking_probes.h"
#include "process/zero_page.h"

namespace incr {
namespace {

constexpr int kRw = PROT_READ | PROT_WRITE;
constexpr uint64_t kTable = 512;  // pages

class SoftDirtyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Feature works = ProbeSoftDirty();
    if (!works.works) GTEST_SKIP() << works.detail;
    const Feature frames = ProbePagemapFrames();
    if (!frames.works) GTEST_SKIP() << "page frame numbers: " << frames.detail;
    auto self = ProcessHandle::Open(getpid());
    ASSERT_TRUE(self.ok());
    self_.emplace(*std::move(self));
    auto scanner = PagemapScanner::Open(*self_);
    ASSERT_TRUE(scanner.ok());
    scanner_.emplace(*std::move(scanner));
  }

  // Never huge; at `at` if given. Every page is written if it can be.
  char* Map(uint64_t pages, int prot = kRw, char* at = nullptr) {
    void* p = mmap(at, pages * kPageSize, prot,
                   MAP_PRIVATE | MAP_ANONYMOUS | (at == nullptr ? 0 : MAP_FIXED), -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    madvise(p, pages * kPageSize, MADV_NOHUGEPAGE);
    char* const start = static_cast<char*>(p);
    for (uint64_t i = 0; i < pages && (prot & PROT_WRITE); ++i) start[i * kPageSize] = 1;
    return start;
  }
  void Clear() { ASSERT_TRUE(ClearSoftDirty(*self_).ok()); }
  uint64_t Entry(const void* p) {
    uint64_t entry = 0;
    EXPECT_TRUE(scanner_->ReadEntries({reinterpret_cast<uint64_t>(p) / kPageSize, 1}, &entry).ok());
    return entry;
  }
  bool Dirty(const void* p) { return (Entry(p) & kPagemapSoftDirty) != 0; }
  uint64_t Frame(const void* p) { return Entry(p) & kPagemapFrame; }

  std::optional<ProcessHandle> self_;
  std::optional<PagemapScanner> scanner_;
};

TEST_F(SoftDirtyTest, AWriteSetsThePagesBitAndNoOther) {
  char* p = Map(3);
  Clear();
  p[kPageSize] = 2;
  EXPECT_FALSE(Dirty(p));
  EXPECT_TRUE(Dirty(p + kPageSize));
  EXPECT_FALSE(Dirty(p + 2 * kPageSize));
}

TEST_F(SoftDirtyTest, AWriteFromOutsideThroughPageProtectionSetsIt) {
  const auto mem = OpenFile("/proc/self/mem", O_RDWR);
  ASSERT_TRUE(mem.ok());
  for (const int prot : {kRw, PROT_READ, PROT_NONE}) {
    char* p = Map(1);
    ASSERT_EQ(mprotect(p, kPageSize, prot), 0);
    Clear();
    EXPECT_FALSE(Dirty(p));
    ASSERT_TRUE(PwriteExactly(mem->get(), "\1", 1, reinterpret_cast<uint64_t>(p), "mem").ok());
    EXPECT_TRUE(Dirty(p)) << prot;
  }
}

TEST_F(SoftDirtyTest, AForkAndACopyOnWriteKeepIt) {
  char* p = Map(3);
  Clear();
  p[kPageSize] = 2;
  const pid_t child = fork();
  if (child == 0) _exit(0);
  EXPECT_FALSE(Dirty(p));
  EXPECT_TRUE(Dirty(p + kPageSize));
  p[2 * kPageSize] = 2;
  EXPECT_TRUE(Dirty(p + 2 * kPageSize));
  waitpid(child, nullptr, 0);
}

TEST_F(SoftDirtyTest, MprotectThereAndBackHidesNoLaterWrite) {
  char* p = Map(2);
  Clear();
  ASSERT_EQ(mprotect(p, 2 * kPageSize, PROT_READ), 0);
  ASSERT_EQ(mprotect(p, 2 * kPageSize, kRw), 0);
  p[0] = 2;
  EXPECT_TRUE(Dirty(p));
  EXPECT_FALSE(Dirty(p + kPageSize));
}

TEST_F(SoftDirtyTest, ADroppedPageReadAgainShowsAtLeastAnotherFrame) {
  char* p = Map(1);
  Clear();
  const uint64_t before = Frame(p);
  ASSERT_EQ(madvise(p, kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(*const_cast<volatile char*>(p), 0);
  EXPECT_TRUE(Dirty(p) || (KernelMapsZeroPage() && Frame(p) != before));
}

TEST_F(SoftDirtyTest, MovedPageTablesShowAtLeastOtherFrames) {
  char* room = Map(5 * kTable, PROT_NONE);
  char* aligned = room + (-reinterpret_cast<uint64_t>(room) & (kTable * kPageSize - 1));
  char* from = Map(kTable, kRw, aligned);
  char* to = Map(kTable, kRw, aligned + 2 * kTable * kPageSize);
  Clear();
  const uint64_t before = Frame(to + kPageSize);
  ASSERT_EQ(mremap(from, kTable * kPageSize, kTable * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
  EXPECT_NE(Frame(to + kPageSize), before);
}

TEST_F(SoftDirtyTest, NewAndMovedMemoryIsDirtyUntilItIsCleared) {
  char* p = Map(2);
  EXPECT_TRUE(Dirty(p));
  Clear();
  EXPECT_FALSE(Dirty(p));
  char* to = Map(2);
  Clear();
  ASSERT_EQ(mremap(p, 2 * kPageSize, 2 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
  EXPECT_TRUE(Dirty(to));
}

TEST_F(SoftDirtyTest, OfAProcessThatHasExitedNothingIsCleared) {
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  auto handle = ProcessHandle::Open(child);
  ASSERT_TRUE(handle.ok());
  EXPECT_TRUE(ClearSoftDirty(*handle).ok());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(ClearSoftDirty(*handle).ok());
}

}  // namespace
}  // namespace incr
