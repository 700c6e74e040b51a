// Threads that compute in registers and would notice one wrong bit: general, xmm/ymm/zmm and mask
// registers, MXCSR, direction flag. A 1 kHz SIGALRM runs a handler on an alternate stack meanwhile;
// SIGTRAP is ignored and, in one thread, blocked.
// Prints "ready"; at the end of its input "ok <rounds> <alarms>" or "BAD ...".
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

std::atomic<bool> stopping{false};
std::atomic<long> rounds{0};
std::atomic<long> alarms{0};

[[noreturn]] void Bad(const char* what) {
  printf("BAD %s\n", what);
  fflush(stdout);
  _exit(1);
}

struct alignas(64) Bank {
  uint64_t lanes[32][8];
};

// Loads the vector registers, spins, stores them again.
void SpinZmm(const Bank& in, Bank* out, uint64_t spins) {
#define LOAD(n) "vmovdqa64 " #n "*64(%[in]), %%zmm" #n "\n"
#define SAVE(n) "vmovdqa64 %%zmm" #n ", " #n "*64(%[out])\n"
#define ALL(X) \
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) \
  X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
  asm volatile(ALL(LOAD) "kmovw (%[in]), %%k3\n"
               "1: dec %[spins]\n jnz 1b\n" ALL(SAVE) "kmovw %%k3, %%eax\n"
               "movzwl (%[in]), %%ecx\n cmp %%eax, %%ecx\n je 2f\n ud2\n 2:\n"
               : [spins] "+r"(spins)
               : [in] "r"(&in), [out] "r"(out)
               : "memory", "cc", "rax", "rcx", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
                 "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                 "xmm15");
}

void SpinYmm(const Bank& in, Bank* out, uint64_t spins) {
#define LOADY(n) "vmovdqa " #n "*64(%[in]), %%ymm" #n "\n"
#define SAVEY(n) "vmovdqa %%ymm" #n ", " #n "*64(%[out])\n"
#define ALLY(X) \
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
  asm volatile(ALLY(LOADY) "1: dec %[spins]\n jnz 1b\n" ALLY(SAVEY)
               : [spins] "+r"(spins)
               : [in] "r"(&in), [out] "r"(out)
               : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                 "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

// Every general register but rsp and rbp (spin counter) holds a pattern over the spin.
bool SpinGeneral(uint64_t seed, uint64_t spins) {
  uint64_t wrong = 0;
  asm volatile(
      "push %%rbp\n mov %[spins], %%rbp\n"
      "lea 1(%%rax), %%rbx\n lea 2(%%rax), %%rcx\n lea 3(%%rax), %%rdx\n lea 4(%%rax), %%rsi\n"
      "lea 5(%%rax), %%rdi\n lea 6(%%rax), %%r8\n lea 7(%%rax), %%r9\n lea 8(%%rax), %%r10\n"
      "lea 9(%%rax), %%r11\n lea 10(%%rax), %%r12\n lea 11(%%rax), %%r13\n"
      "lea 12(%%rax), %%r14\n lea 13(%%rax), %%r15\n std\n"
      "1: dec %%rbp\n jnz 1b\n"
      "pushfq\n pop %%rbp\n cld\n not %%rbp\n and $0x400, %%rbp\n"
      "sub %%rax, %%rbx\n sub %%rax, %%rcx\n sub %%rax, %%rdx\n sub %%rax, %%rsi\n"
      "sub %%rax, %%rdi\n sub %%rax, %%r8\n sub %%rax, %%r9\n sub %%rax, %%r10\n"
      "sub %%rax, %%r11\n sub %%rax, %%r12\n sub %%rax, %%r13\n sub %%rax, %%r14\n"
      "sub %%rax, %%r15\n"
      "xor $1, %%rbx\n xor $2, %%rcx\n xor $3, %%rdx\n xor $4, %%rsi\n xor $5, %%rdi\n"
      "xor $6, %%r8\n xor $7, %%r9\n xor $8, %%r10\n xor $9, %%r11\n xor $10, %%r12\n"
      "xor $11, %%r13\n xor $12, %%r14\n xor $13, %%r15\n"
      "or %%rbx, %%rbp\n or %%rcx, %%rbp\n or %%rdx, %%rbp\n or %%rsi, %%rbp\n or %%rdi, %%rbp\n"
      "or %%r8, %%rbp\n or %%r9, %%rbp\n or %%r10, %%rbp\n or %%r11, %%rbp\n or %%r12, %%rbp\n"
      "or %%r13, %%rbp\n or %%r14, %%rbp\n or %%r15, %%rbp\n"
      "mov %%rbp, %%rax\n pop %%rbp\n"
      : "=a"(wrong)
      : "a"(seed), [spins] "d"(spins)
      : "memory", "cc", "rbx", "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15");
  return wrong == 0;
}

void Work(uint64_t seed) {
  Bank in, out;
  const bool zmm = __builtin_cpu_supports("avx512f");
  const bool ymm = __builtin_cpu_supports("avx");
  const uint32_t mxcsr = 0x1f80 | ((seed & 3) << 13);  // a rounding mode of the thread's own
  asm volatile("ldmxcsr %0" : : "m"(mxcsr));
  for (uint64_t n = seed; !stopping; n = n * 6364136223846793005ull + 1442695040888963407ull) {
    for (auto& reg : in.lanes) {
      for (uint64_t& lane : reg) lane = n = n * 6364136223846793005ull + 1442695040888963407ull;
    }
    memcpy(&out, &in, sizeof in);
    if (zmm) {
      SpinZmm(in, &out, 3000);
    } else if (ymm) {
      SpinYmm(in, &out, 3000);
    }
    if (memcmp(&in, &out, sizeof in) != 0) Bad("a vector register changed");
    if (!SpinGeneral(n, 3000)) Bad("a general register or the direction flag changed");
    uint32_t now = 0;
    asm volatile("stmxcsr %0" : "=m"(now));
    if ((now & ~0x3fu) != (mxcsr & ~0x3fu)) {
      printf("MXCSR is %x, was %x; ", now, mxcsr);
      Bad("MXCSR changed");
    }
    ++rounds;
  }
}

void OnAlarm(int) { ++alarms; }

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? atoi(argv[1]) : 4;
  stack_t stack{};
  stack.ss_size = 65536;
  stack.ss_sp = malloc(stack.ss_size);
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_handler = OnAlarm;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  signal(SIGTRAP, SIG_IGN);
  sigset_t trap;
  sigemptyset(&trap);
  sigaddset(&trap, SIGTRAP);
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([i, trap] {
      if (i == 0) pthread_sigmask(SIG_BLOCK, &trap, nullptr);
      Work(i + 1);
    });
  }
  itimerval timer{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &timer, nullptr);
  puts("ready");
  fflush(stdout);
  char byte;
  ssize_t n;
  while ((n = read(0, &byte, 1)) > 0) {
  }
  if (n < 0) Bad("read was interrupted");
  stopping = true;
  for (std::thread& thread : threads) thread.join();
  kill(getpid(), SIGTRAP);  // ignored
  printf("ok %ld %ld\n", rounds.load(), alarms.load());
}
