#include "checkpoint/interrupted_call.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <map>
#include <string>

namespace incr {
namespace {

constexpr uint64_t kRestartBlock = static_cast<uint64_t>(-516);
constexpr uint64_t kCall = 0x401002;    // behind the `syscall` instruction
constexpr uint64_t kCaller = 0x402000;  // return address of syscall()
constexpr uint64_t kStack = 0x7ffc00001000, kTime = 0x7f0000001000, kWord = 0x7f0000002000;

// Memory of the thread: what is not put there cannot be read.
class Memory {
 public:
  void Put(uint64_t address, const void* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) bytes_[address + i] = static_cast<const char*>(bytes)[i];
  }
  template <typename T>
  void Put(uint64_t address, const T& value) {
    Put(address, &value, sizeof value);
  }
  // Ends at `end`; nops in front.
  void PutCodeBefore(uint64_t end, const std::string& code) {
    const std::string all = std::string(80 - code.size(), '\x90') + code;
    Put(end - all.size(), all.data(), all.size());
  }
  bool operator()(uint64_t address, void* to, size_t size) const {
    for (size_t i = 0; i < size; ++i) {
      const auto byte = bytes_.find(address + i);
      if (byte == bytes_.end()) return false;
      static_cast<char*>(to)[i] = byte->second;
    }
    return true;
  }

 private:
  std::map<uint64_t, char> bytes_;
};

std::string Mov(char opcode, uint32_t number) {
  std::string code(1, opcode);
  return code.append(reinterpret_cast<const char*>(&number), 4);
}
const std::string kSyscall("\x0f\x05", 2);
const std::string kGenericSyscall("\x4d\x89\xc8\x4c\x8b\x4c\x24\x08\x0f\x05", 10);

Registers InCall(uint64_t number, uint64_t rax) {
  Registers r{};
  r.orig_rax = number;
  r.rax = rax;
  r.rip = kCall;
  r.rsp = kStack;
  return r;
}

class RestartedCall : public ::testing::Test {
 protected:
  RestartedCall() {
    memory_.Put(kTime, timespec{5, 0});
    memory_.Put(kWord, uint32_t{77});
    memory_.PutCodeBefore(kCall, kSyscall);
  }
  int64_t Found() {
    auto resumed = ReadyToRun(r_, /*signal_waits=*/false, memory_);
    if (resumed.call_lost) {
      EXPECT_EQ(static_cast<int64_t>(resumed.registers.rax), -EINTR);
      EXPECT_EQ(static_cast<int64_t>(resumed.registers.orig_rax), -1);
      EXPECT_EQ(resumed.registers.rip, kCall);
      return -1;
    }
    EXPECT_EQ(resumed.registers.rip, kCall - 2);
    return static_cast<int64_t>(resumed.registers.rax);
  }

  Memory memory_;
  Registers r_ = InCall(SYS_restart_syscall, kRestartBlock);
};

TEST_F(RestartedCall, IsFoundInTheCodeBeforeIt) {
  r_.rdx = kTime;
  memory_.PutCodeBefore(kCall, Mov('\xb8', SYS_clock_nanosleep) + kSyscall);
  EXPECT_EQ(Found(), SYS_clock_nanosleep);
}

TEST_F(RestartedCall, IsFoundInTheCallerOfTheGenericFunction) {
  r_.rdi = kTime;  // nanosleep(time, NULL), with leftovers that poll could have, too
  r_.rdx = 5;
  memory_.PutCodeBefore(kCall, kGenericSyscall);
  memory_.Put(kStack, kCaller);
  memory_.PutCodeBefore(kCaller, Mov('\xbf', SYS_nanosleep) + "\x31\xc0" + Mov('\xe8', 0x1234));
  EXPECT_EQ(Found(), SYS_nanosleep);
}

TEST_F(RestartedCall, CodeThatDoesNotFitTheArgumentsIsNotBelieved) {
  r_.rdi = kWord;  // futex(word, FUTEX_WAIT_PRIVATE, 77, time)
  r_.rsi = 128;
  r_.rdx = 77;
  r_.r10 = kTime;
  memory_.PutCodeBefore(kCall, Mov('\xb8', SYS_clock_nanosleep) + kSyscall);
  EXPECT_EQ(Found(), SYS_futex);
}

TEST_F(RestartedCall, IsFoundByArgumentsAlone) {
  r_.rdi = kTime;
  EXPECT_EQ(Found(), SYS_nanosleep);
  r_.rdx = 12;  // what a poll of nothing would wait
  EXPECT_EQ(Found(), SYS_nanosleep);
  r_ = InCall(SYS_restart_syscall, kRestartBlock);
  r_.rdx = 12;  // poll(NULL, 0, 12)
  EXPECT_EQ(Found(), SYS_poll);
  r_.rdi = kWord;
  r_.rsi = 1;
  r_.rdx = 0xffffffff;  // without a timeout
  memory_.Put(kWord, pollfd{7, POLLIN, 0});
  EXPECT_EQ(Found(), SYS_poll);
}

TEST_F(RestartedCall, WhereTwoCallsFitTheProgramSeesEintr) {
  r_.rdi = kWord;  // nanosleep({7, 1}, pointer) or poll({7, POLLIN}, ...)
  memory_.Put(kWord, timespec{7, 0});
  r_.rsi = 0;
  r_.rdx = 7;      // or futex(word, FUTEX_WAIT, 7, time)
  r_.r10 = kTime;
  EXPECT_EQ(Found(), -1);
}

TEST_F(RestartedCall, WhereNothingFitsTheProgramSeesEintr) { EXPECT_EQ(Found(), -1); }

TEST_F(RestartedCall, UnreadableMemoryIsNoEvidence) {
  r_.rdi = 0x7f7700000000;
  EXPECT_EQ(Found(), -1);
}

TEST(InterruptedCall, AnInterruptedSleepIsMadeAnew) {
  const ResumedRegisters resumed =
      ReadyToRun(InCall(SYS_clock_nanosleep, kRestartBlock), /*signal_waits=*/false, Memory());
  EXPECT_EQ(resumed.registers.rip, kCall - 2);
  EXPECT_EQ(resumed.registers.rax, static_cast<uint64_t>(SYS_clock_nanosleep));
  EXPECT_FALSE(resumed.call_lost);
}

TEST(InterruptedCall, WithASignalWaitingTheKernelDecides) {
  const ResumedRegisters pause =
      ReadyToRun(InCall(SYS_pause, static_cast<uint64_t>(-514)), /*signal_waits=*/true, Memory());
  EXPECT_EQ(pause.registers.rip, kCall);
  EXPECT_EQ(static_cast<int64_t>(pause.registers.rax), -514);
  EXPECT_EQ(pause.registers.orig_rax, static_cast<uint64_t>(SYS_pause));
  const ResumedRegisters poll = ReadyToRun(InCall(SYS_poll, kRestartBlock), true, Memory());
  EXPECT_EQ(static_cast<int64_t>(poll.registers.rax), -514);
}

TEST(InterruptedCall, AThreadOutsideOfCallsStaysAsItIs) {
  Registers r = InCall(static_cast<uint64_t>(-1), kRestartBlock);
  const ResumedRegisters resumed = ReadyToRun(r, false, Memory());
  EXPECT_EQ(resumed.registers.rip, r.rip);
  EXPECT_EQ(resumed.registers.rax, r.rax);
}

}  // namespace
}  // namespace incr
