#include "checkpoint/excluded_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "process/process_handle.h"

namespace incr {
namespace {

constexpr size_t kMiB = 1 << 20;

MemoryMapping Mapping(uint64_t first, const std::string& flags, const std::string& name = "") {
  MemoryMapping mapping;
  mapping.start = first * kPageSize;
  mapping.end = (first + 1) * kPageSize;
  mapping.prot = PROT_READ | PROT_WRITE;
  mapping.name = name;
  mapping.has_vm_flags = true;
  mapping.vm_flags = flags;
  return mapping;
}

MemoryMapping OfFile(MemoryMapping mapping, bool shared) {
  mapping.inode = 7;
  mapping.shared = shared;
  return mapping;
}

TEST(DontDumpPagesTest, OnlyTheProgramsOwnMemoryIsExcluded) {
  const MemoryMap flags = {
      Mapping(1, "rd wr mr mw me dd"),
      Mapping(2, "rd wr mr mw me"),
      Mapping(3, "rd wr mr mw me de dd"),                                   // a driver's
      Mapping(4, "rd mr de dd", "[vvar]"),
      OfFile(Mapping(5, "rd wr mr mw me dd", "/a/file"), false),
      OfFile(Mapping(6, "rd wr sh mr mw me ms dd", "/a/file"), true),       // others have it too
      OfFile(Mapping(7, "rd wr sh mr mw me ms dd", "/dev/zero (deleted)"), true),
  };
  PageSet expected;
  for (uint64_t page : {1, 5, 7}) expected.Add({page, 1});
  EXPECT_EQ(DontDumpPages(flags), expected);
}

// A child of ours that sleeps; `prepare` runs in it.
class Sleeper {
 public:
  template <typename Prepare>
  explicit Sleeper(Prepare prepare) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prepare();
      if (write(ready[1], "r", 1) != 1) _exit(1);
      for (;;) pause();
    }
    char byte;
    close(ready[1]);
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
  }
  ~Sleeper() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

PageSet PagesAt(void* at, size_t bytes) {
  PageSet pages;
  pages.Add({reinterpret_cast<uint64_t>(at) / kPageSize, bytes / kPageSize});
  return pages;
}

// The flags that Begin gets may be old. Advice that covers a whole VMA does not change the layout,
// so nothing but the flags tells; and only those of the freeze count.
TEST(ExcludedMemoryTest, AdviceTakenBackSinceTheFlagsWereReadIsNotFollowed) {
  void* at = mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Sleeper marked([&] { madvise(at, kMiB, MADV_DONTDUMP); });
  Sleeper unmarked([] {});  // the same process, a moment later
  munmap(at, kMiB);
  auto before = ProcessHandle::Open(marked.pid());
  auto after = ProcessHandle::Open(unmarked.pid());
  ASSERT_TRUE(before.ok() && after.ok());
  const auto old_flags = ReadSmaps(*before);
  ASSERT_TRUE(old_flags.ok()) << old_flags.status();
  ASSERT_EQ(DontDumpPages(*old_flags), PagesAt(at, kMiB));

  ExcludedMemory excluded(/*include_all=*/false);
  excluded.Begin(*old_flags);
  PageSet written = PagesAt(at, 2 * kMiB);
  EXPECT_EQ(excluded.HoldBack(&written), PagesAt(at, kMiB));
  EXPECT_EQ(written, PagesAt(static_cast<char*>(at) + kMiB, kMiB));
  auto decided = excluded.Decide(*before);
  ASSERT_TRUE(decided.ok()) << decided.status();
  EXPECT_EQ(*decided, PagesAt(at, kMiB));
  decided = excluded.Decide(*after);
  ASSERT_TRUE(decided.ok()) << decided.status();
  EXPECT_TRUE(decided->empty());

  // And the image of that freeze does not have it either, or the restored process would lose the memory.
  pb::Process process;
  pb::Image image;
  pb::Mapping* mapping = process.add_mappings();
  mapping->set_kind(pb::Mapping::ANONYMOUS);
  mapping->set_start(reinterpret_cast<uint64_t>(at));
  mapping->set_end(mapping->start() + kMiB);
  mapping->add_advice(MADV_DONTFORK);
  mapping->add_advice(MADV_DONTDUMP);
  excluded.Record(PageSet(), &process, &image);
  ASSERT_EQ(mapping->advice_size(), 1);
  EXPECT_EQ(mapping->advice(0), static_cast<uint32_t>(MADV_DONTFORK));
  EXPECT_FALSE(mapping->excluded());
  EXPECT_EQ(image.warnings_size(), 0);
}

TEST(ExcludedMemoryTest, TheImageListsWhatWasLeftOut) {
  void* at = mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Sleeper marked([&] { madvise(at, kMiB, MADV_DONTDUMP); });
  munmap(at, kMiB);
  auto process = ProcessHandle::Open(marked.pid());
  ASSERT_TRUE(process.ok());
  ExcludedMemory excluded(/*include_all=*/false);
  excluded.Begin(*ReadSmaps(*process));
  ASSERT_TRUE(excluded.Decide(*process).ok());
  pb::Process saved;
  pb::Image image;
  pb::Mapping* mapping = saved.add_mappings();
  mapping->set_kind(pb::Mapping::ANONYMOUS);
  mapping->set_start(reinterpret_cast<uint64_t>(at));
  mapping->set_end(mapping->start() + kMiB);
  excluded.Record(PagesAt(at, 3 * kPageSize), &saved, &image);
  EXPECT_TRUE(mapping->excluded());
  EXPECT_EQ(mapping->excluded_pages(), 3u);
  ASSERT_EQ(mapping->advice_size(), 1);
  EXPECT_EQ(mapping->advice(0), static_cast<uint32_t>(MADV_DONTDUMP));
  ASSERT_EQ(image.warnings_size(), 1);
  EXPECT_NE(image.warnings(0).find("12288 bytes in 1 mapping "), std::string::npos)
      << image.warnings(0);
}

TEST(ExcludedMemoryTest, WithIncludeAllNothingIsLeftOut) {
  const MemoryMap flags = {Mapping(1, "rd wr mr mw me dd")};
  ExcludedMemory excluded(/*include_all=*/true);
  excluded.Begin(flags);
  PageSet written;
  written.Add({1, 1});
  EXPECT_TRUE(excluded.HoldBack(&written).empty());
  EXPECT_EQ(written.page_count(), 1u);
  const auto self = ProcessHandle::Open(getpid());
  ASSERT_TRUE(self.ok());
  EXPECT_TRUE(excluded.Decide(*self)->empty());
}

}  // namespace
}  // namespace incr
