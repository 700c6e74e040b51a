#include "tracker/canary.h"

#include <sys/mman.h>

#include "gtest/gtest.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

constexpr uint64_t kPlanted = kPagemapPresent | kPagemapSoftDirty | 0x1234;

TEST(CanaryTest, LivesWhileItsBitIsSet) {
  EXPECT_EQ(JudgeCanary(kPlanted, kPlanted), CanaryVerdict::kAlive);
}

TEST(CanaryTest, IsDeadWhenTheSamePageHasLostItsBit) {
  EXPECT_EQ(JudgeCanary(kPlanted, kPlanted & ~kPagemapSoftDirty), CanaryVerdict::kDead);
}

TEST(CanaryTest, SaysNothingWhenAnotherPageOrNoneIsInItsPlace) {
  EXPECT_EQ(JudgeCanary(kPlanted, kPlanted + 1), CanaryVerdict::kUnknown);
  EXPECT_EQ(JudgeCanary(kPlanted, (kPlanted + 1) & ~kPagemapSoftDirty), CanaryVerdict::kUnknown);
  EXPECT_EQ(JudgeCanary(kPlanted, 0), CanaryVerdict::kUnknown);
  EXPECT_EQ(JudgeCanary(kPlanted, kPagemapSwapped | kPagemapSoftDirty | 0x1234), CanaryVerdict::kUnknown);
}

TEST(CanaryTest, WhatTheProgramCannotWriteComesFirst) {
  MemoryMapping relocated, anonymous, stack, heap;
  relocated.prot = anonymous.prot = PROT_READ;
  relocated.inode = 7;
  stack.prot = heap.prot = PROT_READ | PROT_WRITE;
  stack.name = "[stack]";
  heap.name = "[heap]";
  EXPECT_LT(CanaryRank(relocated), CanaryRank(anonymous));
  EXPECT_LT(CanaryRank(anonymous), CanaryRank(stack));
  EXPECT_LT(CanaryRank(stack), CanaryRank(heap));
}

TEST(CanaryTest, NoPageThatASwapOrTheTargetsOwnUserfaultfdWouldHaveToServe) {
  EXPECT_TRUE(FitForCanary(kPagemapPresent | 0x1234));
  EXPECT_FALSE(FitForCanary(kPagemapSwapped | 0x1234));
  EXPECT_FALSE(FitForCanary(kPagemapPresent | kPagemapUffdWp | 0x1234));
}

}  // namespace
}  // namespace incr
