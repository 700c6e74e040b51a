// Also pins the kernel facts that the tracker stands on; a new kernel that breaks one fails here.
#include "process/pagemap_scan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <optional>

#include "gtest/gtest.h"
#include "process/kernel_abi.h"
#include "process/userfaultfd.h"
#include "process/zero_page.h"

namespace incr {
namespace {

constexpr uint64_t kFeatures = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
constexpr uint64_t kReport =
    PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_FILE | PAGE_IS_PRESENT | PAGE_IS_SWAPPED |
    PAGE_IS_PFNZERO;

class PagemapScanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto self = ProcessHandle::Open(getpid());
    ASSERT_TRUE(self.ok());
    auto scanner = PagemapScanner::Open(*self);
    ASSERT_TRUE(scanner.ok()) << scanner.status();
    scanner_.emplace(*std::move(scanner));
    auto uffd = NewUserfaultfd(kFeatures);
    if (!uffd.ok()) GTEST_SKIP() << uffd.status();
    uffd_ = *std::move(uffd);
  }

  char* Map(size_t pages, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1) {
    void* p = mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, flags, fd, 0);
    EXPECT_NE(p, MAP_FAILED);
    return static_cast<char*>(p);
  }
  static uint64_t PageOf(const void* p) { return reinterpret_cast<uint64_t>(p) / kPageSize; }
  static PageRange Range(const void* p, size_t pages) { return {PageOf(p), pages}; }

  void Register(const void* p, size_t pages) {
    ASSERT_TRUE(RegisterWriteProtect(uffd_.get(), Range(p, pages)).ok());
  }
  // Written content pages, re-protected.
  PageSet TakeWritten(const void* p, size_t pages) {
    ScanQuery query;
    query.all_of = PAGE_IS_WRITTEN;
    query.any_of = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
    query.report = PAGE_IS_WRITTEN;
    query.write_protect = true;
    PageSet result;
    EXPECT_TRUE(scanner_->Scan(Range(p, pages), query, [&](PageRange r, uint64_t) {
      result.Add(r);
    }).ok());
    return result;
  }
  // Categories of one page; 0 when nothing is reported.
  uint64_t Categories(const void* p) {
    ScanQuery query;
    query.report = kReport;
    uint64_t result = 0;
    EXPECT_TRUE(scanner_->Scan(Range(p, 1), query, [&](PageRange, uint64_t c) { result = c; }).ok());
    return result;
  }
  uint64_t Entry(const void* p) {
    uint64_t entry = 0;
    EXPECT_TRUE(scanner_->ReadEntries(Range(p, 1), &entry).ok());
    return entry;
  }

  std::optional<PagemapScanner> scanner_;
  ScopedFd uffd_;
};

PageSet Set(std::initializer_list<PageRange> ranges) {
  PageSet set;
  for (PageRange r : ranges) set.Add(r);
  return set;
}

TEST_F(PagemapScanTest, AWriteShowsOnceAndAfterANewRegistrationEverythingShows) {
  char* p = Map(8);
  p[0] = p[3 * kPageSize] = 1;
  Register(p, 8);
  EXPECT_EQ(TakeWritten(p, 8), Set({{PageOf(p), 1}, {PageOf(p) + 3, 1}}));
  EXPECT_TRUE(TakeWritten(p, 8).empty());
  p[3 * kPageSize] = 2;
  p[5 * kPageSize] = 2;
  EXPECT_EQ(TakeWritten(p, 8), Set({{PageOf(p) + 3, 1}, {PageOf(p) + 5, 1}}));
}

TEST_F(PagemapScanTest, MoreRunsThanFitOneVectorAreAllReported) {
  constexpr size_t kPages = 20000;
  char* p = Map(kPages);
  Register(p, kPages);
  PageSet expected;
  for (size_t i = 0; i < kPages; i += 2) {
    p[i * kPageSize] = 1;
    expected.Add({PageOf(p) + i, 1});
  }
  EXPECT_EQ(TakeWritten(p, kPages), expected);
  EXPECT_TRUE(TakeWritten(p, kPages).empty());
}

TEST_F(PagemapScanTest, AScanForTheFirstPageEndsThere) {
  char* p = Map(20000);
  for (const size_t page : {7, 8, 900, 19999}) p[page * kPageSize] = 1;
  ScanQuery query;
  query.any_of = query.report = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  query.first_only = true;
  const auto first_from = [&](size_t page) {
    PageSet found;
    EXPECT_TRUE(scanner_->Scan(Range(p + page * kPageSize, 20000 - page), query,
                               [&](PageRange r, uint64_t) { found.Add(r); }).ok());
    return found;
  };
  EXPECT_EQ(first_from(0), Set({{PageOf(p) + 7, 1}}));
  EXPECT_EQ(first_from(8), Set({{PageOf(p) + 8, 1}}));
  EXPECT_EQ(first_from(901), Set({{PageOf(p) + 19999, 1}}));
}

TEST_F(PagemapScanTest, ReadingAnEmptyPageShowsTheZeroPage) {
  char* p = Map(1);
  Register(p, 1);
  EXPECT_EQ(*const_cast<volatile char*>(p), 0);
  const uint64_t read = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_PRESENT;
  EXPECT_EQ(Categories(p), KernelMapsZeroPage() ? read | PAGE_IS_PFNZERO : read);
}

TEST_F(PagemapScanTest, ADroppedAnonymousPageIsNoLongerPopulated) {
  char* p = Map(2);
  Register(p, 2);
  p[0] = 1;
  TakeWritten(p, 2);
  ASSERT_EQ(madvise(p, kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(Categories(p) & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED), 0u);
}

TEST_F(PagemapScanTest, ADroppedPrivateFilePageLeavesAMarkerThatLooksSwappedAndClean) {
  ScopedFd fd(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  char* p = Map(2, MAP_PRIVATE, fd.get());
  Register(p, 2);
  EXPECT_NE(*const_cast<volatile char*>(p), 0);
  EXPECT_NE(Categories(p) & PAGE_IS_FILE, 0u);  // Only read: the file's own page.
  p[0] = 1;
  EXPECT_EQ(Categories(p) & PAGE_IS_FILE, 0u);  // Copied on write: ours.
  EXPECT_EQ(TakeWritten(p, 1), Set({{PageOf(p), 1}}));
  ASSERT_EQ(madvise(p, kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(Categories(p), static_cast<uint64_t>(PAGE_IS_WPALLOWED | PAGE_IS_SWAPPED));
  EXPECT_TRUE(IsMarker(Entry(p)));
  // Written again, the marker does not swallow it.
  p[1] = 1;
  EXPECT_EQ(TakeWritten(p, 1), Set({{PageOf(p), 1}}));
  EXPECT_FALSE(IsMarker(Entry(p)));
}

TEST_F(PagemapScanTest, NewMemoryAtAnOldAddressIsNotRegistered) {
  char* p = Map(4);
  Register(p, 4);
  p[0] = p[kPageSize] = 1;
  TakeWritten(p, 4);
  ASSERT_EQ(mmap(p, 2 * kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            p);
  p[0] = 1;
  EXPECT_EQ(Categories(p) & PAGE_IS_WPALLOWED, 0u);
  EXPECT_NE(Categories(p + 2 * kPageSize) & PAGE_IS_WPALLOWED, 0u);
  // A scan that protects passes over it in silence.
  EXPECT_TRUE(TakeWritten(p, 4).empty());
  Register(p, 4);
  EXPECT_EQ(TakeWritten(p, 4), Set({{PageOf(p), 1}}));
}

TEST_F(PagemapScanTest, MovedMemoryLosesItsRegistrationAndItsProtection) {
  char* p = Map(4);
  char* target = Map(4);
  Register(p, 4);
  p[0] = 1;
  TakeWritten(p, 4);
  ASSERT_EQ(mremap(p, 4 * kPageSize, 4 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, target), target);
  EXPECT_EQ(Categories(target) & PAGE_IS_WPALLOWED, 0u);
  Register(target, 4);
  // Kernels before 6.14 kept the bit: hence whatever was not registered counts as written.
  EXPECT_EQ(TakeWritten(target, 4), Set({{PageOf(target), 1}}));
}

TEST_F(PagemapScanTest, AMoveBesideARegisteredMappingTakesItsRegistrationAndLeavesItsBits) {
  char* p = Map(8);
  char* aside = Map(4);
  Register(p, 8);
  memset(p, 1, 8 * kPageSize);
  TakeWritten(p, 8);
  char* second_half = p + 4 * kPageSize;
  const size_t half = 4 * kPageSize;
  ASSERT_EQ(mremap(second_half, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, aside), aside);
  Register(aside, 4);
  ASSERT_EQ(mremap(aside, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, second_half), second_half);
  if (Categories(p) & PAGE_IS_WPALLOWED) GTEST_SKIP() << "this kernel does not merge them";
  p[0] = 2;
  Register(p, 8);
  // The page just written still carries the bit: it looks clean, and further writes do not fault.
  EXPECT_EQ(TakeWritten(p, 8), Set({{PageOf(second_half), 4}}));
  p[0] = 3;
  EXPECT_TRUE(TakeWritten(p, 8).empty());
  // Clearing is what brings it back.
  ASSERT_TRUE(WriteProtect(uffd_.get(), Range(p, 8), false).ok());
  EXPECT_EQ(TakeWritten(p, 8), Set({{PageOf(p), 8}}));
  p[0] = 4;
  EXPECT_EQ(TakeWritten(p, 8), Set({{PageOf(p), 1}}));
}

TEST_F(PagemapScanTest, MemoryGrownInPlaceStaysRegistered) {
  char* p = Map(8);
  ASSERT_EQ(munmap(p + 4 * kPageSize, 4 * kPageSize), 0);
  Register(p, 4);
  ASSERT_EQ(mremap(p, 4 * kPageSize, 8 * kPageSize, 0), p);
  p[6 * kPageSize] = 1;
  EXPECT_EQ(TakeWritten(p, 8), Set({{PageOf(p) + 6, 1}}));
}

TEST_F(PagemapScanTest, NeighboursDoNotMergeIntoARegistration) {
  char* p = Map(4);
  ASSERT_EQ(munmap(p + 2 * kPageSize, 2 * kPageSize), 0);
  Register(p, 2);
  char* neighbour = p + 2 * kPageSize;
  ASSERT_EQ(mmap(neighbour, 2 * kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            neighbour);
  neighbour[0] = 1;
  EXPECT_EQ(Categories(neighbour) & PAGE_IS_WPALLOWED, 0u);
  // Nor after a protection change has made both alike.
  ASSERT_EQ(mprotect(p, 4 * kPageSize, PROT_READ), 0);
  EXPECT_EQ(Categories(neighbour) & PAGE_IS_WPALLOWED, 0u);
}

TEST_F(PagemapScanTest, ProtectionChangesKeepWhatIsArmed) {
  char* p = Map(4);
  Register(p, 4);
  memset(p, 1, 4 * kPageSize);
  TakeWritten(p, 4);
  ASSERT_EQ(mprotect(p + kPageSize, kPageSize, PROT_NONE), 0);  // Splits.
  ASSERT_EQ(mprotect(p + kPageSize, kPageSize, PROT_READ | PROT_WRITE), 0);
  EXPECT_TRUE(TakeWritten(p, 4).empty());
  p[kPageSize] = 2;
  EXPECT_EQ(TakeWritten(p, 4), Set({{PageOf(p) + 1, 1}}));
}

TEST_F(PagemapScanTest, AForkDoesNotHideTheParentsWrites) {
  char* p = Map(2);
  Register(p, 2);
  p[0] = p[kPageSize] = 1;
  TakeWritten(p, 2);
  const pid_t child = fork();
  if (child == 0) pause();
  p[0] = 2;
  EXPECT_EQ(TakeWritten(p, 2), Set({{PageOf(p), 1}}));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  p[kPageSize] = 2;
  EXPECT_EQ(TakeWritten(p, 2), Set({{PageOf(p) + 1, 1}}));
}

TEST_F(PagemapScanTest, AWriteThroughProcMemShows) {
  char* p = Map(1);
  Register(p, 1);
  p[0] = 1;
  TakeWritten(p, 1);
  ScopedFd mem(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  ASSERT_EQ(pwrite(mem.get(), "x", 1, reinterpret_cast<off_t>(p)), 1);
  EXPECT_EQ(TakeWritten(p, 1), Set({{PageOf(p), 1}}));
}

TEST_F(PagemapScanTest, HugePagesReportOnePageOnTheFirstWrite) {
  constexpr size_t kHuge = 2 << 20;
  char* p = Map(2 * kHuge / kPageSize);
  char* huge = reinterpret_cast<char*>((reinterpret_cast<uint64_t>(p) + kHuge - 1) & ~(kHuge - 1));
  if (madvise(huge, kHuge, MADV_HUGEPAGE) != 0) GTEST_SKIP() << "no huge pages: " << strerror(errno);
  Register(huge, 512);
  memset(huge, 1, kHuge);
  EXPECT_EQ(TakeWritten(huge, 512), Set({{PageOf(huge), 512}}));
  huge[7 * kPageSize] = 2;
  EXPECT_EQ(TakeWritten(huge, 512), Set({{PageOf(huge) + 7, 1}}));
  memset(huge, 1, kHuge);
  TakeWritten(huge, 512);
  ASSERT_EQ(madvise(huge, kHuge, MADV_DONTNEED), 0);
  EXPECT_EQ(Categories(huge) & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED), 0u);
  huge[0] = 1;
  EXPECT_TRUE(TakeWritten(huge, 512).Contains(PageOf(huge)));
}

TEST_F(PagemapScanTest, GuardPagesHaveNoContent) {
  char* p = Map(2);
  Register(p, 2);
  p[0] = 1;
  if (madvise(p, kPageSize, MADV_GUARD_INSTALL) != 0) GTEST_SKIP() << "no guard pages (6.13)";
  EXPECT_TRUE(IsMarker(Entry(p)));
  TakeWritten(p, 2);
  EXPECT_TRUE(IsMarker(Entry(p)));
}

TEST_F(PagemapScanTest, MemoryThatIsGoneIsAnErrorAndNotAnEmptyAnswer) {
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) pause();
  auto handle = ProcessHandle::Open(child);
  ASSERT_TRUE(handle.ok());
  auto scanner = PagemapScanner::Open(*handle);
  ASSERT_TRUE(scanner.ok());
  ScanQuery query;
  query.any_of = PAGE_IS_PRESENT;
  query.report = PAGE_IS_PRESENT;
  const PageRange everything{0x10, (uint64_t{1} << 35) - 0x20};
  uint64_t pages = 0;
  EXPECT_TRUE(scanner->Scan(everything, query, [&](PageRange r, uint64_t) { pages += r.count; }).ok());
  EXPECT_GT(pages, 10u);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const absl::Status status = scanner->Scan(everything, query, [](PageRange, uint64_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  uint64_t entry;
  EXPECT_FALSE(scanner->ReadEntries({0x10, 1}, &entry).ok());
  EXPECT_FALSE(PagemapScanner::Open(*handle).ok());
}

}  // namespace
}  // namespace incr
