#include "checkpoint/huge_pages.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "process/collapse.h"

namespace incr {
namespace {

constexpr size_t kBlocks = 4;

// A child with four huge pages of memory, which does what it is told to.
class Target {
 public:
  Target() {
    void* at = mmap(nullptr, (kBlocks + 1) * kHugePageSize, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory_ = static_cast<char*>(at) + kHugePageSize - reinterpret_cast<uint64_t>(at) % kHugePageSize;
    EXPECT_EQ(pipe(orders_), 0);
    EXPECT_EQ(pipe(answers_), 0);
    pid_ = fork();
    if (pid_ == 0) Obey();
    close(orders_[0]);
    close(answers_[1]);
    munmap(at, (kBlocks + 1) * kHugePageSize);
    char byte;
    EXPECT_EQ(read(answers_[0], &byte, 1), 1);
  }
  ~Target() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(orders_[1]);
    close(answers_[0]);
  }

  // 's': splits the mapping of block `block`; 'd': drops one of its pages; 'u': unmaps it.
  void Do(char order, int block) {
    const char message[2] = {order, static_cast<char>(block)};
    char byte;
    ASSERT_EQ(write(orders_[1], message, 2), 2);
    ASSERT_EQ(read(answers_[0], &byte, 1), 1);
  }
  pid_t pid() const { return pid_; }

 private:
  [[noreturn]] void Obey() {
    madvise(memory_, kBlocks * kHugePageSize, MADV_HUGEPAGE);
    memset(memory_, 1, kBlocks * kHugePageSize);
    for (char order[2] = {'r', 0};; ) {
      char* block = memory_ + order[1] * kHugePageSize;
      if (order[0] == 's') {
        mprotect(block, 4096, PROT_READ);
        mprotect(block, 4096, PROT_READ | PROT_WRITE);
      }
      if (order[0] == 'd') madvise(block, 4096, MADV_DONTNEED);
      if (order[0] == 'u') munmap(block, kHugePageSize);
      if (write(answers_[1], "r", 1) != 1 || read(orders_[0], order, 2) != 2) _exit(0);
    }
  }

  char* memory_;
  int orders_[2], answers_[2];
  pid_t pid_;
};

class HugePagesTest : public testing::Test {
 protected:
  HugePagesTest() : process_(*ProcessHandle::Open(target_.pid())) {}
  HugePageCount Look() {
    const absl::Status looked = pages_.Look(process_, *ReadMaps(process_));
    EXPECT_TRUE(looked.ok()) << looked;
    return pages_.count();
  }

  Target target_;
  ProcessHandle process_;
  HugePages pages_;
};

#define SKIP_WITHOUT_HUGE_PAGES(seen) \
  if ((seen) != kBlocks) GTEST_SKIP() << "this machine gave " << (seen) << " huge pages of " << kBlocks

TEST_F(HugePagesTest, WhatIsSplitIsCountedUntilItIsMended) {
  SKIP_WITHOUT_HUGE_PAGES(Look().seen);
  EXPECT_EQ(Look().split, 0u);
  target_.Do('s', 1);
  target_.Do('s', 3);
  EXPECT_EQ(Look().seen, kBlocks);
  EXPECT_EQ(Look().split, 2u);
  pages_.Mend(process_);
  EXPECT_EQ(pages_.count().collapsed, 2u);
  EXPECT_EQ(Look().split, 0u);
  EXPECT_EQ(Look().seen, kBlocks);
}

TEST_F(HugePagesTest, WhatTheProgramDroppedOrUnmappedIsNotCounted) {
  SKIP_WITHOUT_HUGE_PAGES(Look().seen);
  target_.Do('d', 0);
  target_.Do('u', 2);
  EXPECT_EQ(Look().seen, kBlocks - 2);
  EXPECT_EQ(Look().split, 0u);
  pages_.Mend(process_);
  EXPECT_EQ(pages_.count().collapsed, 0u);
}

TEST_F(HugePagesTest, MendingATargetThatHasExitedDoesNothing) {
  SKIP_WITHOUT_HUGE_PAGES(Look().seen);
  target_.Do('s', 0);
  EXPECT_EQ(Look().split, 1u);
  kill(target_.pid(), SIGKILL);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, target_.pid(), &info, WEXITED | WNOWAIT), 0);
  pages_.Mend(process_);
  EXPECT_EQ(pages_.count().collapsed, 0u);
}

}  // namespace
}  // namespace incr
