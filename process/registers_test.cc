#include "process/registers.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/invisible_stop.h"
#include "process/test_child.h"

namespace incr {
namespace {

Registers InCall(int64_t number, int64_t result) {
  Registers registers{};
  registers.rip = 0x401002;
  registers.orig_rax = static_cast<uint64_t>(number);
  registers.rax = static_cast<uint64_t>(result);
  return registers;
}

TEST(RewindTest, InterruptedCallStartsAgain) {
  for (const int64_t code : {-512, -513, -514, -516}) {
    const Registers rewound = RewindInterruptedCall(InCall(SYS_read, code));
    EXPECT_EQ(rewound.rip, 0x401000u);
    EXPECT_EQ(rewound.rax, static_cast<uint64_t>(SYS_read));
    EXPECT_EQ(static_cast<int64_t>(rewound.orig_rax), -1);
  }
}

TEST(RewindTest, AnythingElseStaysAsItIs) {
  for (const Registers& registers :
       {InCall(SYS_read, 17), InCall(SYS_read, -EINTR), InCall(SYS_read, -515),
        InCall(SYS_read, -517), InCall(-1, -512)}) {
    const Registers same = RewindInterruptedCall(registers);
    EXPECT_EQ(std::memcmp(&same, &registers, sizeof same), 0);
  }
}

TEST(InvisibleStopTest, EintrIsOursOnlyInCallsWithoutTimeout) {
  Registers registers = InCall(SYS_epoll_wait, -EINTR);
  registers.r10 = 0xffffffff;  // int -1; the upper half is whatever it was
  EXPECT_TRUE(AnsweredEintrForNothing(registers));
  registers.r10 = 1000;
  EXPECT_FALSE(AnsweredEintrForNothing(registers));
  registers = InCall(SYS_rt_sigtimedwait, -EINTR);
  EXPECT_TRUE(AnsweredEintrForNothing(registers));
  registers.rdx = 0x1000;
  EXPECT_FALSE(AnsweredEintrForNothing(registers));
  EXPECT_TRUE(AnsweredEintrForNothing(InCall(SYS_semop, -EINTR)));
  EXPECT_TRUE(AnsweredEintrForNothing(InCall(SYS_epoll_pwait2, -EINTR)));
  EXPECT_FALSE(AnsweredEintrForNothing(InCall(SYS_read, -EINTR)));
  EXPECT_FALSE(AnsweredEintrForNothing(InCall(SYS_semop, 0)));
  EXPECT_FALSE(AnsweredEintrForNothing(InCall(-1, -EINTR)));
}

TEST(InvisibleStopTest, CriticalSectionIsHalfOpen) {
  const RseqCriticalSection section{0, 0, 0x1000, 0x20, 0x2000};
  Registers registers{};
  for (const auto& [rip, inside] : {std::pair<uint64_t, bool>{0xfff, false}, {0x1000, true},
                                    {0x101f, true}, {0x1020, false}, {0x2000, false}}) {
    registers.rip = rip;
    EXPECT_EQ(InsideCriticalSection(registers, section), inside) << rip;
  }
}

TEST(RegistersTest, WhatIsSetIsReadBack) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  const auto before = GetRegisters(child.pid());
  const auto xstate = GetXstate(child.pid());
  ASSERT_TRUE(before.ok() && xstate.ok());
  ASSERT_GT(xstate->size(), 576u);  // legacy area and XSAVE header

  Registers registers = *before;
  registers.r15 = 0x123456789abcdef0;
  ASSERT_TRUE(SetRegisters(child.pid(), registers).ok());
  EXPECT_EQ(GetRegisters(child.pid())->r15, 0x123456789abcdef0u);
  ASSERT_TRUE(SetRegisters(child.pid(), *before).ok());

  std::string changed = *xstate;
  changed[160] ^= 0x5a;  // xmm0
  changed[512] |= 2;     // XSTATE_BV: SSE in use
  ASSERT_TRUE(SetXstate(child.pid(), changed).ok());
  EXPECT_EQ((*GetXstate(child.pid()))[160], changed[160]);
  ASSERT_TRUE(SetXstate(child.pid(), *xstate).ok());
  EXPECT_FALSE(SetXstate(child.pid(), "too short").ok());
}

TEST(RegistersTest, ThreadThatIsNotStoppedIsAnErrorThatNamesIt) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  const auto registers = GetRegisters(child.pid());
  EXPECT_TRUE(absl::IsNotFound(registers.status())) << registers.status();
  EXPECT_NE(registers.status().message().find(std::to_string(child.pid())), std::string::npos);
  EXPECT_FALSE(GetXstate(child.pid()).ok());
}

}  // namespace
}  // namespace incr
