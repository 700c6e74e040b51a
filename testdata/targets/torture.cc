// torture — eight threads that verify themselves and would notice one wrong byte.
// Usage: torture PROGRESS_FILE
//
// Each thread keeps sixteen AVX registers full across busy loops, a thread-local counter, a
// buffer whose every byte follows from (thread, page, generation), and takes part in a token
// ring under a mutex and condition variables. Every 5 ms the least step of all threads goes
// to PROGRESS_FILE as 20 digits at offset 0. A check that fails writes "BAD <what>" there and
// exits with status 3. Ends with status 0 when PROGRESS_FILE.stop exists.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kThreads = 8;
constexpr size_t kPage = 4096;
constexpr size_t kPagesEach = 512;

int progress_fd = -1;
std::atomic<bool> stop{false};
std::array<std::atomic<uint64_t>, kThreads> steps;

std::mutex ring_mutex;
std::array<std::condition_variable, kThreads> ring_turn;
uint64_t ring_token = 0;

thread_local uint64_t tls_steps = 0;
thread_local uint64_t tls_guard = 0;

[[noreturn]] void Bad(const char* what, int thread) {
  char text[64];
  const int n = snprintf(text, sizeof text, "BAD %s thread %d", what, thread);
  if (pwrite(progress_fd, text, n, 0) < 0) perror("pwrite");
  _exit(3);
}

uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

// Loads ymm0..ymm15, spins, stores them: what came back must be what went in.
__attribute__((target("avx"), noinline)) void CheckVectorRegisters(int thread, uint64_t step) {
  alignas(32) uint64_t in[64], out[64];
  for (int i = 0; i < 64; ++i) in[i] = Mix(step * 64 + i + thread * 1'000'003);
  uint64_t spins = 20'000;
  asm volatile(
      "vmovdqa 0(%1), %%ymm0\n vmovdqa 32(%1), %%ymm1\n vmovdqa 64(%1), %%ymm2\n"
      "vmovdqa 96(%1), %%ymm3\n vmovdqa 128(%1), %%ymm4\n vmovdqa 160(%1), %%ymm5\n"
      "vmovdqa 192(%1), %%ymm6\n vmovdqa 224(%1), %%ymm7\n vmovdqa 256(%1), %%ymm8\n"
      "vmovdqa 288(%1), %%ymm9\n vmovdqa 320(%1), %%ymm10\n vmovdqa 352(%1), %%ymm11\n"
      "vmovdqa 384(%1), %%ymm12\n vmovdqa 416(%1), %%ymm13\n vmovdqa 448(%1), %%ymm14\n"
      "vmovdqa 480(%1), %%ymm15\n"
      "1: dec %0\n jnz 1b\n"
      "vmovdqa %%ymm0, 0(%2)\n vmovdqa %%ymm1, 32(%2)\n vmovdqa %%ymm2, 64(%2)\n"
      "vmovdqa %%ymm3, 96(%2)\n vmovdqa %%ymm4, 128(%2)\n vmovdqa %%ymm5, 160(%2)\n"
      "vmovdqa %%ymm6, 192(%2)\n vmovdqa %%ymm7, 224(%2)\n vmovdqa %%ymm8, 256(%2)\n"
      "vmovdqa %%ymm9, 288(%2)\n vmovdqa %%ymm10, 320(%2)\n vmovdqa %%ymm11, 352(%2)\n"
      "vmovdqa %%ymm12, 384(%2)\n vmovdqa %%ymm13, 416(%2)\n vmovdqa %%ymm14, 448(%2)\n"
      "vmovdqa %%ymm15, 480(%2)\n vzeroupper\n"
      : "+r"(spins)
      : "r"(in), "r"(out)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  if (memcmp(in, out, sizeof in) != 0) Bad("vector registers", thread);
}

class Pages {
 public:
  explicit Pages(int thread) : thread_(thread), bytes_(kPagesEach * kPage), generation_(kPagesEach) {
    for (size_t page = 0; page < kPagesEach; ++page) Write(page, 0);
  }
  // Within a window of eight pages that moves on slowly: an epoch finds most pages unchanged.
  void Rewrite(uint64_t step) {
    Write((step / 2048 * 8 + Mix(step + thread_) % 8) % kPagesEach, step);
  }
  void CheckSome(uint64_t step) const {
    for (int i = 0; i < 4; ++i) Check((step * 4 + i) % kPagesEach);
  }

 private:
  uint64_t Word(size_t page, uint64_t generation, size_t i) const {
    return Mix(generation * 1'000'003 + page * 513 + i + thread_ * 77'777);
  }
  void Write(size_t page, uint64_t generation) {
    generation_[page] = generation;
    for (size_t i = 0; i < kPage / 8; ++i) {
      const uint64_t word = Word(page, generation, i);
      memcpy(&bytes_[page * kPage + i * 8], &word, 8);
    }
  }
  void Check(size_t page) const {
    for (size_t i = 0; i < kPage / 8; ++i) {
      uint64_t word;
      memcpy(&word, &bytes_[page * kPage + i * 8], 8);
      if (word != Word(page, generation_[page], i)) Bad("memory", thread_);
    }
  }
  const int thread_;
  std::vector<uint8_t> bytes_;
  std::vector<uint64_t> generation_;
};

void TakeTurn(int thread) {
  std::unique_lock lock(ring_mutex);
  ring_turn[thread].wait(lock, [&] { return stop || ring_token % kThreads == uint64_t(thread); });
  if (stop) return;
  ++ring_token;
  ring_turn[(thread + 1) % kThreads].notify_one();
}

void Work(int thread) {
  tls_guard = Mix(thread);
  Pages pages(thread);
  for (uint64_t step = 1; !stop; ++step) {
    CheckVectorRegisters(thread, step);
    pages.Rewrite(step);
    pages.CheckSome(step);
    if (++tls_steps != step || tls_guard != Mix(thread)) Bad("thread-local storage", thread);
    TakeTurn(thread);
    steps[thread] = step;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  progress_fd = open(argv[1], O_RDWR | O_CREAT, 0600);
  if (progress_fd < 0) return 2;
  const std::string stop_file = std::string(argv[1]) + ".stop";
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(Work, i);
  for (uint64_t reported = 0; access(stop_file.c_str(), F_OK) != 0;) {
    usleep(5'000);
    uint64_t least = UINT64_MAX, most = 0;
    {
      // Nobody takes a turn meanwhile, however long this thread waits for a CPU between two loads.
      std::lock_guard lock(ring_mutex);
      for (auto& step : steps) {
        least = std::min<uint64_t>(least, step);
        most = std::max<uint64_t>(most, step);
      }
    }
    if (least < reported || most > least + 2) Bad("ring order", -1);
    reported = least;
    char text[21];
    snprintf(text, sizeof text, "%020lu", static_cast<unsigned long>(least));
    if (pwrite(progress_fd, text, 20, 0) != 20) return 4;
  }
  {
    std::lock_guard lock(ring_mutex);
    stop = true;
  }
  for (auto& turn : ring_turn) turn.notify_all();
  for (std::thread& thread : threads) thread.join();
  return 0;
}
