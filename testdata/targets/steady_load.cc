// steady_load — a process for benchmarks: rewrites its memory at a set rate and notes when it was kept
// from running.
//
//   steady_load MIB RATE_FILE sleep|work THREADS
//
// Memory: MIB MiB of 4 KiB pages (no huge ones). Up to 1 GiB of it is content of its own that LZ4 shrinks
// by about a half; what is beyond repeats 256 pages, so that a store of 8 GiB does not take 8 GiB.
//
// Writing: RATE_FILE holds pages per second of the whole process, read at the start and at SIGUSR2 (and
// not kept open); "-1": rest altogether. Of each page 64 bytes are written. The order is a permutation of all pages: none comes
// twice before all have come (THREADS a power of two). What cannot be kept up is dropped; the report tells.
//
// Gaps: the first thread looks at the clock all the time, and a gap is what lies between two looks. "sleep": it
// sleeps 100 us between looks, like a server that waits. "work": it computes between looks, and counts how much,
// like a job that has the core to itself. The other threads write their share every 10 ms.
//
// Prints "ready", and at SIGUSR1 what happened since the last SIGUSR1:
//   report SECONDS PAGES_WRITTEN OPERATIONS GAPS LOST
//   histogram N0 ... N31            looks by gap: under 1 us, under 2, under 4 ...
//   END_US GAP_US                   GAPS lines: each gap of 250 us or more, at CLOCK_REALTIME; LOST more
//                                   did not fit
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kOwnPages = 1u << 18;  // 1 GiB
constexpr int64_t kNotableUs = 250;
constexpr size_t kMaxGaps = 1u << 16;
constexpr int64_t kShortRestUs = 100;
constexpr int64_t kLongRestUs = 10'000;
constexpr int64_t kMostOwedUs = 100'000;
constexpr int kWritesBetweenLooks = 16;

uint8_t* memory;
size_t pages;
int threads;
std::atomic<int64_t> rate{0};  // pages a second, of all threads; below 0: rest
std::atomic<uint64_t> written{0};
std::atomic<bool> report{false}, reread{false};

int64_t NowUs(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000 + now.tv_nsec / 1000;
}
int64_t NowUs() { return NowUs(CLOCK_MONOTONIC); }

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// One to one on the numbers of `bits` bits.
uint64_t Permute(uint64_t x, int bits) {
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for (int round = 0; round < 3; ++round) {
    x = (x * 0x9e3779b97f4a7c15 + round) & mask;
    x ^= x >> (bits / 2 + 1);
  }
  return x;
}

bool ReadRate(const char* path) {
  FILE* file = fopen(path, "r");
  long value = 0;
  const bool ok = file != nullptr && fscanf(file, "%ld", &value) == 1;
  if (file != nullptr) fclose(file);
  if (ok) rate = value;
  return ok;
}

void Fill() {
  std::mt19937_64 random(1);
  const size_t every = (pages + kOwnPages - 1) / kOwnPages;
  std::vector<uint8_t> repeated(256 * kPage);
  for (size_t i = 0; i < 256; ++i) {
    memset(&repeated[i * kPage], static_cast<int>(i), kPage);
    for (size_t at = 0; at < 64; at += 8) {
      const uint64_t value = random();
      memcpy(&repeated[i * kPage + at], &value, 8);
    }
  }
  for (size_t i = 0; i < pages; ++i) {
    uint8_t* page = memory + i * kPage;
    if (i % every != 0) {
      memcpy(page, &repeated[i % 256 * kPage], kPage);
      continue;
    }
    for (size_t at = 0; at < kPage / 2; at += 8) {
      const uint64_t value = random();
      memcpy(page + at, &value, 8);
    }
    memset(page + kPage / 2, static_cast<int>(random()), kPage / 2);
  }
}

// Thread `number`'s share of the pages to write.
class Writer {
 public:
  explicit Writer(int number)
      : next_(number), bits_(std::max<int>(2, std::bit_width(pages - 1))), last_us_(NowUs()) {}

  // Writes what is due by `now_us`; calls look() now and then.
  template <typename Look>
  void WriteDue(int64_t now_us, const Look& look) {
    const int64_t a_second = std::max<int64_t>(0, rate.load(std::memory_order_relaxed));
    const double per_us = static_cast<double>(a_second) / 1e6 / threads;
    owed_ = std::min(owed_ + static_cast<double>(now_us - last_us_) * per_us, kMostOwedUs * per_us);
    last_us_ = now_us;
    uint64_t done = 0;
    for (; owed_ >= 1; owed_ -= 1) {
      WriteOne();
      if (++done % kWritesBetweenLooks == 0) look();
    }
    written.fetch_add(done, std::memory_order_relaxed);
  }

 private:
  void WriteOne() {
    size_t page;
    do {
      page = Permute(next_, bits_);
      next_ = (next_ + threads) & ((uint64_t{1} << bits_) - 1);
    } while (page >= pages);
    auto* line = reinterpret_cast<uint64_t*>(memory + page * kPage);
    for (int i = 0; i < 8; ++i) line[i] = Mix(++salt_);
  }

  uint64_t next_;
  const int bits_;
  int64_t last_us_;
  double owed_ = 0;
  uint64_t salt_ = static_cast<uint64_t>(NowUs()) << 20;
};

struct Gap {
  int64_t end_us, gap_us;
};

class Watch {
 public:
  Watch() { gaps_.resize(kMaxGaps); }  // Touched now: growing later would be a gap of our own.

  int64_t Look() {
    const int64_t now_us = NowUs();
    const int64_t gap_us = now_us - last_us_;
    last_us_ = now_us;
    ++histogram_[std::min<int>(31, std::bit_width(static_cast<uint64_t>(gap_us)))];
    if (gap_us >= kNotableUs) {
      if (count_ < kMaxGaps) {
        gaps_[count_++] = {NowUs(CLOCK_REALTIME), gap_us};
      } else {
        ++lost_;
      }
    }
    return now_us;
  }

  void Report(uint64_t operations) {
    printf("report %.6f %lu %lu %zu %zu\nhistogram", (NowUs() - since_us_) / 1e6,
           static_cast<unsigned long>(written.exchange(0)),
           static_cast<unsigned long>(operations), count_, lost_);
    for (uint64_t& n : histogram_) printf(" %lu", static_cast<unsigned long>(std::exchange(n, uint64_t{0})));
    printf("\n");
    for (size_t i = 0; i < count_; ++i) {
      printf("%ld %ld\n", static_cast<long>(gaps_[i].end_us), static_cast<long>(gaps_[i].gap_us));
    }
    fflush(stdout);
    count_ = lost_ = 0;
    since_us_ = last_us_ = NowUs();  // The report itself is no gap.
  }

 private:
  std::vector<Gap> gaps_;
  size_t count_ = 0, lost_ = 0;
  uint64_t histogram_[32] = {};
  int64_t last_us_ = NowUs(), since_us_ = last_us_;
};

// Always the same work, about 30 us: reads that wait for memory, and arithmetic that does not. More reads
// would measure the neighbours of a virtual machine: with 8 in 2 us the same slice came out 20 % apart.
uint64_t Operate(uint64_t state) {
  for (int i = 0; i < 8; ++i) {
    const size_t at = Mix(state) % (pages * (kPage / 8));
    state += reinterpret_cast<const uint64_t*>(memory)[at];
    for (int k = 0; k < 512; ++k) state = Mix(state);
  }
  return state;
}

[[noreturn]] void WriteAlong(int number) {
  Writer writer(number);
  for (;;) {
    usleep(kLongRestUs);
    writer.WriteDue(NowUs(), [] {});
  }
}

[[noreturn]] void WatchAndWrite(bool work, const char* rate_file) {
  Writer writer(0);
  Watch watch;
  uint64_t operations = 0, state = 1;
  const auto look = [&] { watch.Look(); };
  for (;;) {
    const bool rest = rate.load(std::memory_order_relaxed) < 0;
    if (work && !rest) {
      for (int i = 0; i < 2; ++i, ++operations) state = Operate(state);
    } else {
      usleep(rest ? kLongRestUs : kShortRestUs);
    }
    writer.WriteDue(watch.Look(), look);
    if (reread.exchange(false) && !ReadRate(rate_file)) _exit(1);
    if (report.exchange(false)) {
      watch.Report(operations);
      operations = 0;
    }
    if (state == 0) puts("");  // Or the work would be for nobody, and left out.
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 || (strcmp(argv[3], "sleep") != 0 && strcmp(argv[3], "work") != 0)) return 2;
  pages = strtoull(argv[1], nullptr, 10) << 8;
  threads = atoi(argv[4]);
  if (pages == 0 || threads < 1 || !ReadRate(argv[2])) return 2;
  void* mapped = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED || madvise(mapped, pages * kPage, MADV_NOHUGEPAGE) != 0) return 1;
  memory = static_cast<uint8_t*>(mapped);
  Fill();
  sigset_t ours, before;
  sigemptyset(&ours);
  sigaddset(&ours, SIGUSR1);
  sigaddset(&ours, SIGUSR2);
  sigprocmask(SIG_BLOCK, &ours, &before);  // For the first thread only.
  for (int i = 1; i < threads; ++i) std::thread(WriteAlong, i).detach();
  signal(SIGUSR1, [](int) { report = true; });
  signal(SIGUSR2, [](int) { reread = true; });
  sigprocmask(SIG_SETMASK, &before, nullptr);
  puts("ready");
  fflush(stdout);
  prctl(PR_SET_TIMERSLACK, 1000);  // ns; a sleep of 100 us is otherwise one of 150.
  WatchAndWrite(strcmp(argv[3], "work") == 0, argv[2]);
}
