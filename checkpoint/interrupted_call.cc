#include "checkpoint/interrupted_call.h"

#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "proto/image_check.h"

namespace incr {
namespace {

// Kernel-internal, include/linux/errno.h.
constexpr int64_t kRestartNoHandler = 514;
constexpr int64_t kRestartBlock = 516;

// poll last: see FindRestartedCall.
constexpr int64_t kCandidates[] = {SYS_nanosleep, SYS_clock_nanosleep, SYS_futex, SYS_poll};

constexpr size_t kCodeBytes = 16;    // between `mov $number, %eax` and `syscall`
constexpr size_t kCallerBytes = 64;  // between `mov $number, %edi` and the return address

bool IsPointer(uint64_t value) { return value >= 4096 && value < kTaskSize; }
bool IsPointerOrNull(uint64_t value) { return value == 0 || IsPointer(value); }

bool IsTimespec(uint64_t address, ReadMemory read) {
  timespec time;
  return IsPointer(address) && read(address, &time, sizeof time) && time.tv_sec >= 0 &&
         time.tv_nsec >= 0 && time.tv_nsec < 1'000'000'000;
}

// FUTEX_WAIT or FUTEX_WAIT_BITSET with a timeout, on a word that still holds the value.
bool IsFutexWait(const Registers& r, ReadMemory read) {
  const uint32_t operation = r.rsi & 0x7f;
  uint32_t word;
  return (operation == 0 || operation == 9) && IsPointer(r.rdi) &&
         read(r.rdi, &word, sizeof word) && word == static_cast<uint32_t>(r.rdx) &&
         IsTimespec(r.r10, read);
}

bool IsPoll(const Registers& r, ReadMemory read) {
  const uint32_t count = static_cast<uint32_t>(r.rsi);
  if (static_cast<int32_t>(r.rdx) == 0 || count > (1u << 20)) return false;
  if (count == 0) return IsPointerOrNull(r.rdi);
  pollfd first[8];
  const size_t looked_at = std::min<size_t>(count, 8);
  if (!IsPointer(r.rdi) || !read(r.rdi, first, looked_at * sizeof first[0])) return false;
  return std::all_of(first, first + looked_at, [](const pollfd& p) {
    return p.fd < (1 << 20) && (p.events & ~0x3fff) == 0;
  });
}

bool ArgumentsFit(const Registers& r, int64_t call, ReadMemory read) {
  switch (call) {
    case SYS_nanosleep:
      return IsTimespec(r.rdi, read) && IsPointerOrNull(r.rsi);
    case SYS_clock_nanosleep:  // an absolute one restarts by itself
      return r.rdi <= 11 && r.rsi == 0 && IsTimespec(r.rdx, read) && IsPointerOrNull(r.r10);
    case SYS_poll:
      return IsPoll(r, read);
    case SYS_futex:
      return IsFutexWait(r, read);
    default:
      return false;
  }
}

// A candidate's number as the operand of the last `opcode` (a mov of 32 bits) in `code`, or -1.
int64_t NumberInCode(absl::string_view code, uint8_t opcode) {
  int64_t found = -1;
  for (size_t i = 0; i + 5 <= code.size(); ++i) {
    if (static_cast<uint8_t>(code[i]) != opcode) continue;
    uint32_t number;
    memcpy(&number, code.data() + i + 1, sizeof number);
    for (int64_t candidate : kCandidates) {
      if (number == candidate) found = candidate;
    }
  }
  return found;
}

std::string BytesBefore(uint64_t address, size_t size, ReadMemory read) {
  std::string bytes(size, '\0');
  if (address < size || !read(address - size, bytes.data(), size)) return "";
  return bytes;
}

int64_t NumberInProgram(const Registers& r, ReadMemory read) {
  const std::string code = BytesBefore(r.rip, kCodeBytes + 2, read);
  constexpr uint8_t kMovEax = 0xb8, kMovEdi = 0xbf;
  const int64_t number = NumberInCode(code, kMovEax);
  if (number >= 0) return number;
  // glibc's syscall(number, ...): mov 8(%rsp), %r9; syscall.
  if (!absl::EndsWith(code, "\x4c\x8b\x4c\x24\x08\x0f\x05")) return -1;
  uint64_t return_address;
  if (!read(r.rsp, &return_address, sizeof return_address)) return -1;
  return NumberInCode(BytesBefore(return_address, kCallerBytes, read), kMovEdi);
}

bool IsRestartedCall(const Registers& r) {
  return static_cast<int64_t>(r.orig_rax) == SYS_restart_syscall &&
         static_cast<int64_t>(r.rax) == -kRestartBlock;
}

}  // namespace

int64_t FindRestartedCall(const Registers& registers, ReadMemory read) {
  const int64_t in_program = NumberInProgram(registers, read);
  if (in_program >= 0 && ArgumentsFit(registers, in_program, read)) return in_program;
  int64_t only = -1;
  for (int64_t candidate : kCandidates) {
    if (!ArgumentsFit(registers, candidate, read)) continue;
    // A poll of nothing is a sleep, too; where a real one fits, believe that.
    const bool weak = candidate == SYS_poll && static_cast<uint32_t>(registers.rsi) == 0;
    if (weak && only >= 0) continue;
    if (only >= 0) return -1;  // Two calls fit: a wrong guess would be worse than EINTR.
    only = candidate;
  }
  return only;
}

ResumedRegisters ReadyToRun(Registers registers, bool signal_waits, ReadMemory read) {
  if (IsRestartedCall(registers)) {
    const int64_t call = FindRestartedCall(registers, read);
    if (call < 0) {
      registers.rax = static_cast<uint64_t>(-int64_t{EINTR});
      registers.orig_rax = static_cast<uint64_t>(-1);
      return {registers, /*call_lost=*/true};
    }
    registers.orig_rax = static_cast<uint64_t>(call);
  }
  if (!signal_waits) return {RewindInterruptedCall(registers)};
  // Without a restart block in the new process the kernel would answer EINTR even where
  // the signal turns out to have no handler; ERESTARTNOHAND is the same but for that.
  if (static_cast<int64_t>(registers.orig_rax) >= 0 &&
      static_cast<int64_t>(registers.rax) == -kRestartBlock) {
    registers.rax = static_cast<uint64_t>(-kRestartNoHandler);
  }
  return {registers};
}

}  // namespace incr
