// Eight threads. Each holds values in vector registers across long stretches of assembly,
// thread-local data, a private heap with known content; all share a mutex, condition
// variables and an account whose sum must not change. One wrong bit ends it.
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <sys/syscall.h>

#include <atomic>

#include "rst_common.h"

constexpr int kThreads = 8;
constexpr size_t kHeapBytes = 1 << 20;

static thread_local uint64_t local_value = 0;
static thread_local char local_block[4096];
static std::atomic<uint64_t> rounds[kThreads];
static std::atomic<bool> stop{false};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn = 0;
static long account[kThreads];

// Loads 16 registers, spins for a while, then stores them. ~1 ms.
__attribute__((target("avx512f"), noinline)) static void HoldZmm(const uint64_t* in, uint64_t* out) {
  asm volatile(
      "vmovdqu64 0(%0), %%zmm0\n vmovdqu64 64(%0), %%zmm1\n vmovdqu64 128(%0), %%zmm7\n"
      "vmovdqu64 192(%0), %%zmm15\n vmovdqu64 256(%0), %%zmm16\n vmovdqu64 320(%0), %%zmm23\n"
      "vmovdqu64 384(%0), %%zmm30\n vmovdqu64 448(%0), %%zmm31\n"
      "mov (%0), %%r8\n kmovw %%r8d, %%k1\n not %%r8\n kmovw %%r8d, %%k7\n"
      "mov $1000000, %%rcx\n"
      "1: dec %%rcx\n jnz 1b\n"
      "vmovdqu64 %%zmm0, 0(%1)\n vmovdqu64 %%zmm1, 64(%1)\n vmovdqu64 %%zmm7, 128(%1)\n"
      "vmovdqu64 %%zmm15, 192(%1)\n vmovdqu64 %%zmm16, 256(%1)\n vmovdqu64 %%zmm23, 320(%1)\n"
      "vmovdqu64 %%zmm30, 384(%1)\n vmovdqu64 %%zmm31, 448(%1)\n"
      "kmovw %%k1, %%r8d\n mov %%r8, 512(%1)\n kmovw %%k7, %%r8d\n mov %%r8, 520(%1)\n"
      :
      : "r"(in), "r"(out)
      : "rcx", "r8", "memory", "xmm0", "xmm1", "xmm7", "xmm15", "xmm16", "xmm23", "xmm30", "xmm31",
        "k1", "k7", "cc");
}

__attribute__((target("avx"), noinline)) static void HoldYmm(const uint64_t* in, uint64_t* out) {
  asm volatile(
      "vmovdqu 0(%0), %%ymm0\n vmovdqu 64(%0), %%ymm7\n vmovdqu 128(%0), %%ymm8\n"
      "vmovdqu 192(%0), %%ymm15\n"
      "mov $1000000, %%rcx\n"
      "1: dec %%rcx\n jnz 1b\n"
      "vmovdqu %%ymm0, 0(%1)\n vmovdqu %%ymm7, 64(%1)\n vmovdqu %%ymm8, 128(%1)\n"
      "vmovdqu %%ymm15, 192(%1)\n"
      :
      : "r"(in), "r"(out)
      : "rcx", "memory", "xmm0", "xmm7", "xmm8", "xmm15", "cc");
}

// x87 and SSE: control words and a value that exists only in an 80-bit register.
static void HoldX87(uint64_t seed) {
  long double exact = 1.0L + static_cast<long double>(seed % 1000) * 0x1p-60L;
  long double back = 0;
  asm volatile(
      "fldt (%0)\n mov $300000, %%rcx\n 1: dec %%rcx\n jnz 1b\n fstpt (%1)\n"
      :
      : "r"(&exact), "r"(&back)
      : "rcx", "memory", "cc");
  EXPECT(memcmp(&exact, &back, 10) == 0);
}

static void HoldVectors(uint64_t seed, bool avx512) {
  alignas(64) uint64_t in[66], out[66] = {};
  for (int i = 0; i < 66; ++i) in[i] = Mix(seed * 131 + i);
  if (avx512) {
    HoldZmm(in, out);
    EXPECT(memcmp(in, out, 512) == 0);
    EXPECT(out[64] == (in[0] & 0xffff) && out[65] == (~in[0] & 0xffff));
  } else {
    HoldYmm(in, out);
    for (int i = 0; i < 32; i += 8) EXPECT(memcmp(in + i, out + i, 32) == 0);
  }
}

static void TakeTurn(int self) {
  pthread_mutex_lock(&mutex);
  while (turn != self && !stop) pthread_cond_wait(&turn_changed, &mutex);
  const int other = (self + 3) % kThreads;
  account[self] -= self + 1;
  account[other] += self + 1;
  long sum = 0;
  for (long part : account) sum += part;
  EXPECT(sum == 0);
  if (turn == self) turn = (turn + 1) % kThreads;
  pthread_cond_broadcast(&turn_changed);
  pthread_mutex_unlock(&mutex);
}

static void* Run(void* argument) {
  const int self = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  const pid_t tid = syscall(SYS_gettid);
  const pthread_t handle = pthread_self();
  const bool avx512 = __builtin_cpu_supports("avx512f") && self % 2 == 0;
  char name[16];
  snprintf(name, sizeof name, "worker-%d", self);
  pthread_setname_np(pthread_self(), name);
  char* heap = static_cast<char*>(malloc(kHeapBytes));
  Fill(heap, kHeapBytes, self);
  Fill(local_block, sizeof local_block, self);
  local_value = self;
  for (uint64_t round = 0; !stop; ++round) {
    EXPECT(local_value == self + round);
    ++local_value;
    EXPECT(IsFilled(local_block, sizeof local_block, self + round));
    Fill(local_block, sizeof local_block, self + round + 1);
    HoldVectors(self * 1000 + round, avx512);
    HoldX87(self + round);
    const size_t block = (round % 256) * 4096;
    EXPECT(IsFilled(heap + block, 4096, round < 256 ? self + block / 8 : round - 256));
    Fill(heap + block, 4096, round);
    TakeTurn(self);
    EXPECT(syscall(SYS_gettid) == tid && pthread_equal(pthread_self(), handle));
    char now[16];
    pthread_getname_np(pthread_self(), now, sizeof now);
    EXPECT(strcmp(now, name) == 0);
    rounds[self] = round;
  }
  return reinterpret_cast<void*>(static_cast<intptr_t>(self * 7));
}

int main() {
  GoOn(SIGTERM);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) {
    EXPECT(pthread_create(&threads[i], nullptr, Run, reinterpret_cast<void*>(i)) == 0);
  }
  uint64_t last = 0;
  for (int tick = 0; !go; ++tick) {
    uint64_t least = ~uint64_t{0};
    for (auto& count : rounds) least = count < least ? count.load() : least;
    if (tick == 0 || least > last) {
      if (tick == 0) Say("ready");
      Say("tick %d", static_cast<int>(least));
      last = least;
    }
    SleepMs(5);
  }
  stop = true;
  pthread_cond_broadcast(&turn_changed);
  for (int i = 0; i < kThreads; ++i) {
    void* result = nullptr;
    EXPECT(pthread_join(threads[i], &result) == 0);  // needs clear_child_tid
    EXPECT(reinterpret_cast<intptr_t>(result) == i * 7);
  }
  Say("done");
  return 0;
}
