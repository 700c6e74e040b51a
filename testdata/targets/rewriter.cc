// rewriter — a steady writer, for benchmarks. Usage: rewriter MIB PAGES_PER_SECOND.
//
// Fills MIB MiB, half of each page random and half repeating (LZ4 shrinks it by about a half), then
// rewrites PAGES_PER_SECOND random pages each second, evenly in 10 ms steps. Prints "ready" when
// filled. On SIGUSR1 prints how long it was kept from running at the longest since the last
// SIGUSR1, in microseconds, as it saw it itself.
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

namespace {

constexpr size_t kPage = 4096;
std::atomic<bool> report{false};

int64_t NowUs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000 + now.tv_nsec / 1000;
}

// Half of each page random, half repeating.
void FillPage(uint8_t* page, std::mt19937_64& random) {
  for (size_t i = 0; i < kPage / 2; i += 8) {
    const uint64_t value = random();
    memcpy(page + i, &value, 8);
  }
  memset(page + kPage / 2, static_cast<int>(random()), kPage / 2);
}

// Sleeps in 100 us steps and notes the longest overshoot: what an outside stop looks like from within.
[[noreturn]] void WatchStalls() {
  int64_t longest_us = 0, last_us = NowUs();
  for (;;) {
    usleep(100);
    const int64_t now_us = NowUs();
    longest_us = now_us - last_us > longest_us ? now_us - last_us : longest_us;
    last_us = now_us;
    if (report.exchange(false)) {
      printf("stall_us %ld\n", static_cast<long>(longest_us));
      fflush(stdout);
      longest_us = 0;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const size_t pages = strtoull(argv[1], nullptr, 10) << 8;
  const size_t per_second = strtoull(argv[2], nullptr, 10);
  if (pages == 0) return 2;
  auto* memory = static_cast<uint8_t*>(mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) return 1;
  std::mt19937_64 random(1);
  for (size_t i = 0; i < pages; ++i) FillPage(memory + i * kPage, random);
  signal(SIGUSR1, [](int) { report = true; });
  std::thread(WatchStalls).detach();
  puts("ready");
  fflush(stdout);
  double owed = 0;
  for (;;) {
    usleep(10'000);
    for (owed += per_second / 100.0; owed >= 1; owed -= 1) {
      FillPage(memory + random() % pages * kPage, random);
    }
  }
}
