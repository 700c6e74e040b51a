#include "process/remote_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>

#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/registers.h"
#include "process/test_child.h"

namespace incr {
namespace {

constexpr size_t kPages = 4096;

// Mapped before the fork, so that its address is the same in the child.
uint8_t* MapPages(size_t pages, int prot = PROT_READ | PROT_WRITE) {
  return static_cast<uint8_t*>(
      mmap(nullptr, pages * kPageSize, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

RemoteAddr Remote(const void* address) { return RemoteAddr(reinterpret_cast<uint64_t>(address)); }

uint64_t PageOf(const void* address) { return reinterpret_cast<uint64_t>(address) / kPageSize; }

uint8_t PatternByte(uint64_t page) { return static_cast<uint8_t>(page * 37 + 11); }

TEST(RemoteMemoryTest, ReadAndWriteAreExactAtAnySizeAndOffset) {
  uint8_t* area = MapPages(600);
  for (size_t i = 0; i < 600 * kPageSize; ++i) area[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto memory = RemoteMemory::Open(child.handle(), true);
  ASSERT_TRUE(memory.ok()) << memory.status();
  for (const size_t size : {size_t{0}, size_t{1}, size_t{8}, size_t{4095}, size_t{4096},
                            size_t{4097}, size_t{1000000}, 500 * kPageSize}) {
    for (const size_t offset : {0, 1, 4095, 4096, 65537}) {
      std::vector<uint8_t> bytes(size, 0xee);
      const absl::Status status = memory->Read(Remote(area + offset), bytes.data(), size);
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(std::memcmp(bytes.data(), area + offset, size), 0);
    }
  }
  std::vector<uint8_t> written(300 * kPageSize + 5, 0x42);
  ASSERT_TRUE(memory->Write(Remote(area + 3), written.data(), written.size()).ok());
  std::vector<uint8_t> back(written.size());
  ASSERT_TRUE(memory->Read(Remote(area + 3), back.data(), back.size()).ok());
  EXPECT_EQ(back, written);
  munmap(area, 600 * kPageSize);
}

TEST(RemoteMemoryTest, ProtectionIsNoObstacle) {
  uint8_t* area = MapPages(16);
  std::memset(area, 0x77, 16 * kPageSize);
  mprotect(area + 4 * kPageSize, 8 * kPageSize, PROT_NONE);
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto memory = RemoteMemory::Open(child.handle(), true);
  ASSERT_TRUE(memory.ok());
  std::vector<uint8_t> bytes(16 * kPageSize);
  ASSERT_TRUE(memory->Read(Remote(area), bytes.data(), bytes.size()).ok());
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0x77), 16 * kPageSize);
  std::fill(bytes.begin(), bytes.end(), 0x78);
  ASSERT_TRUE(memory->Write(Remote(area), bytes.data(), bytes.size()).ok());
  PageSet unreadable;
  std::vector<uint8_t> pages(16 * kPageSize);
  ASSERT_TRUE(memory->ReadPages({{PageOf(area), 16}}, pages.data(), &unreadable).ok());
  EXPECT_EQ(pages, bytes);
  EXPECT_TRUE(unreadable.empty());
  munmap(area, 16 * kPageSize);
}

TEST(RemoteMemoryTest, AbsentMemoryIsAnErrorThatNamesTheAddress) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto memory = RemoteMemory::Open(child.handle(), true);
  ASSERT_TRUE(memory.ok());
  char bytes[8192] = {};
  absl::Status status = memory->Read(RemoteAddr(0x10), bytes, 8);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("0x10"), std::string::npos) << status;
  EXPECT_FALSE(memory->Read(RemoteAddr(0x10), bytes, sizeof bytes).ok());
  EXPECT_FALSE(memory->Write(RemoteAddr(0x10), bytes, 8).ok());
  EXPECT_FALSE(memory->Read(RemoteAddr(~uint64_t{0} - 4095), bytes, 8).ok());
}

// Random runs over a map with holes, closed pages and a file that ends early, against a model.
TEST(RemoteMemoryTest, ReadPagesIsRightWhereverRunsBreak) {
  uint8_t* area = MapPages(kPages);
  enum Kind : uint8_t { kPlain, kClosed, kHole, kBeyondFile };
  std::vector<Kind> kinds(kPages, kPlain);
  for (size_t i = 0; i < kPages; ++i) std::memset(area + i * kPageSize, PatternByte(i), kPageSize);
  std::mt19937 random(7);
  const auto change = [&](Kind kind, int times, const std::function<void(uint8_t*, size_t)>& how) {
    for (int n = 0; n < times; ++n) {
      const size_t at = random() % kPages;
      const size_t count = std::min<size_t>(1 + random() % 9, kPages - at);
      if (std::any_of(&kinds[at], &kinds[at] + count, [](Kind k) { return k != kPlain; })) continue;
      how(area + at * kPageSize, count * kPageSize);
      std::fill(&kinds[at], &kinds[at] + count, kind);
    }
  };
  const int file = memfd_create("short", 0);
  change(kClosed, 60, [](uint8_t* p, size_t size) { mprotect(p, size, PROT_NONE); });
  change(kHole, 60, [](uint8_t* p, size_t size) { munmap(p, size); });
  change(kBeyondFile, 20, [file](uint8_t* p, size_t size) {
    mmap(p, size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0);
  });
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto memory = RemoteMemory::Open(child.handle(), false);
  ASSERT_TRUE(memory.ok());

  for (int round = 0; round < 60; ++round) {
    std::vector<PageRange> ranges;
    PageSet expected;
    // Up to 3000 runs of one page: several batches of IOV_MAX.
    const size_t longest = round % 3 == 0 ? 1 : round % 3 == 1 ? 5 : 400;
    for (size_t at = random() % 4; at < kPages;) {
      const size_t count = std::min<size_t>(1 + random() % longest, kPages - at);
      ranges.push_back({PageOf(area) + at, count});
      at += count + random() % 2;
    }
    const uint64_t total = std::accumulate(ranges.begin(), ranges.end(), uint64_t{0},
                                           [](uint64_t n, PageRange r) { return n + r.count; });
    std::vector<uint8_t> bytes(total * kPageSize, 0xee);
    PageSet unreadable;
    const absl::Status status = memory->ReadPages(ranges, bytes.data(), &unreadable);
    ASSERT_TRUE(status.ok()) << status;
    const uint8_t* next = bytes.data();
    for (const PageRange& range : ranges) {
      for (uint64_t page = range.first; page < range.end(); ++page, next += kPageSize) {
        const size_t index = page - PageOf(area);
        const bool readable = kinds[index] == kPlain || kinds[index] == kClosed;
        if (!readable) expected.Add({page, 1});
        const uint8_t want = readable ? PatternByte(index) : 0;
        ASSERT_EQ(std::count(next, next + kPageSize, want), kPageSize) << "page " << index;
      }
    }
    EXPECT_EQ(unreadable, expected);
  }
  close(file);
  munmap(area, kPages * kPageSize);
}

TEST(RemoteMemoryTest, LargeRunsAreReadWhole) {
  constexpr size_t kLarge = 100 << 10;  // 400 MiB, mostly the zero page: more than one batch
  uint8_t* area = static_cast<uint8_t*>(mmap(nullptr, kLarge * kPageSize, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (size_t i = 0; i < kLarge; i += 1000) area[i * kPageSize] = PatternByte(i);
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto memory = RemoteMemory::Open(child.handle(), false);
  ASSERT_TRUE(memory.ok());
  uint8_t* copy = MapPages(kLarge);
  PageSet unreadable;
  ASSERT_TRUE(memory->ReadPages({{PageOf(area), kLarge}}, copy, &unreadable).ok());
  EXPECT_TRUE(unreadable.empty());
  for (size_t i = 0; i < kLarge; i += 1000) ASSERT_EQ(copy[i * kPageSize], PatternByte(i)) << i;
  munmap(copy, kLarge * kPageSize);
  munmap(area, kLarge * kPageSize);
}

TEST(RemoteMemoryTest, AfterAnExecNothingIsReadFromTheOtherProgram) {
  uint8_t* area = MapPages(4);
  std::memset(area, 0x55, 4 * kPageSize);
  TestChild child = TestChild::Fork([] {
    AwaitLine();
    execl("/bin/cat", "cat", nullptr);
    _exit(1);
  });
  auto memory = RemoteMemory::Open(child.handle(), true);
  ASSERT_TRUE(memory.ok());
  std::vector<uint8_t> bytes(4 * kPageSize);
  ASSERT_TRUE(memory->Read(Remote(area), bytes.data(), bytes.size()).ok());
  child.WriteLine("go");
  child.WriteLine("echoed by cat");
  ASSERT_EQ(child.ReadLine(), "echoed by cat");
  // An address that both programs have.
  const auto frozen = FrozenProcess::Freeze(child.handle());
  const RemoteAddr stack((GetRegisters(child.pid())->rsp) / kPageSize * kPageSize);
  for (const size_t size : {size_t{8}, 2 * kPageSize}) {
    const absl::Status status = memory->Read(stack, bytes.data(), size);
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  EXPECT_TRUE(absl::IsNotFound(memory->Write(stack, bytes.data(), 8)));
  PageSet unreadable;
  EXPECT_TRUE(absl::IsNotFound(
      memory->ReadPages({{stack.value() / kPageSize, 1}}, bytes.data(), &unreadable)));
  munmap(area, 4 * kPageSize);
}

TEST(RemoteMemoryTest, ExitIsNotFound) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto memory = RemoteMemory::Open(child.handle(), false);
  ASSERT_TRUE(memory.ok());
  child.CloseInput();
  child.Wait();
  std::vector<uint8_t> bytes(8 * kPageSize);
  PageSet unreadable;
  EXPECT_TRUE(absl::IsNotFound(memory->Read(Remote(&bytes), bytes.data(), 8)));
  EXPECT_TRUE(absl::IsNotFound(memory->ReadPages({{16, 8}}, bytes.data(), &unreadable)));
  EXPECT_TRUE(absl::IsNotFound(RemoteMemory::Open(child.handle(), false).status()));
}

}  // namespace
}  // namespace incr
