// The store alone, GiB of pages a second: a first epoch, one with 5 % changed, a cold restore, small
// epochs' latency. `of_memcpy` is the share of this machine's memcpy speed in the same run: machines
// differ, ratios less.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "store/store.h"

namespace incr {
namespace {

constexpr uint64_t kPages = 131072;  // 512 MiB
constexpr uint64_t kRun = 256;

// As in design.md: a quarter zero, a quarter repeated, a quarter text-like, a quarter noise.
void FillPage(uint64_t seed, uint8_t* page) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
  auto next = [&x] { return x ^= x << 13, x ^= x >> 7, x ^= x << 17; };
  switch (seed % 4) {
    case 0:
      std::memset(page, 0, kPageSize);
      return;
    case 1:
      x = seed % 256 + 1;
      break;
    default:
      break;
  }
  const uint64_t mask = seed % 4 == 3 ? ~uint64_t{0} : 0x00000f0f00000f0full;
  for (size_t i = 0; i < kPageSize; i += 8) {
    const uint64_t word = next() & mask;
    std::memcpy(page + i, &word, 8);
  }
}

struct Memory {
  Memory() : bytes(kPages * kPageSize) {
    for (uint64_t page = 0; page < kPages; ++page) FillPage(page, at(page));
  }
  uint8_t* at(uint64_t page) { return bytes.data() + page * kPageSize; }
  std::vector<uint8_t> bytes;
};

Memory& TheMemory() {
  static auto& memory = *new Memory;
  return memory;
}

double MemcpyBytesPerSecond() {
  static const double speed = [] {
    std::vector<uint8_t> to(256u << 20);
    std::memcpy(to.data(), TheMemory().bytes.data(), to.size());
    const Stopwatch time;
    std::memcpy(to.data(), TheMemory().bytes.data(), to.size());
    benchmark::DoNotOptimize(to.data());
    return to.size() * 1e6 / time.elapsed_us();
  }();
  return speed;
}

std::string Directory() {
  const char* base = std::getenv("INCR_CKPT_BENCHMARK_DIR");
  std::string path = std::string(base ? base : "/var/tmp") + "/store_benchmarkXXXXXX";
  INCR_CHECK(::mkdtemp(path.data()) != nullptr);
  return path;
}

double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

std::unique_ptr<Store> OpenStore(const std::string& path) {
  StoreOptions options;
  options.create_if_missing = true;
  auto store = Store::Open(path, options);
  INCR_CHECK(store.ok());
  return *std::move(store);
}

void Report(benchmark::State& state, double bytes, double seconds, double cpu) {
  state.counters["GiB_per_s"] = bytes / seconds / (1u << 30);
  state.counters["of_memcpy"] = bytes / seconds / MemcpyBytesPerSecond();
  state.counters["cpu_s_per_GiB"] = cpu / (bytes / (1u << 30));
}

uint64_t WriteAll(Store& store, const std::string& job, uint64_t parent) {
  auto writer = store.BeginEpoch(job, parent);
  INCR_CHECK(writer.ok());
  for (uint64_t page = 0; page < kPages; page += kRun) {
    INCR_CHECK((*writer)->AddPages(0, {page, kRun}, TheMemory().at(page)).ok());
  }
  auto record = (*writer)->Commit({}, "image");
  INCR_CHECK(record.ok());
  return record->epoch();
}

void BM_FirstEpoch(benchmark::State& state) {
  TheMemory();
  double seconds = 0, cpu = 0;
  for (auto _ : state) {
    const std::string path = Directory();
    {
      auto store = OpenStore(path);
      const double cpu_before = CpuSeconds();
      const Stopwatch time;
      WriteAll(*store, "job", 0);
      state.SetIterationTime(time.elapsed_us() * 1e-6);
      seconds += time.elapsed_us() * 1e-6;
      cpu += CpuSeconds() - cpu_before;
    }
    std::filesystem::remove_all(path);
  }
  Report(state, double(state.iterations()) * kPages * kPageSize, seconds, cpu);
}
BENCHMARK(BM_FirstEpoch)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(5);

// 5 % of the pages, in runs of 4, with new noise; counted are the changed pages.
void BM_FivePercentChanged(benchmark::State& state) {
  const std::string path = Directory();
  double bytes = 0, seconds = 0, cpu = 0;
  {
    auto store = OpenStore(path);
    uint64_t parent = WriteAll(*store, "job", 0);
    std::vector<uint8_t> run(4 * kPageSize);
    uint64_t seed = 1u << 20;
    for (auto _ : state) {
      const double cpu_before = CpuSeconds();
      int64_t us = 0;
      auto writer = store->BeginEpoch("job", parent);
      for (uint64_t page = 0; page < kPages; page += 80) {
        for (int i = 0; i < 4; ++i) FillPage(++seed | 2, run.data() + i * kPageSize);
        const Stopwatch time;
        INCR_CHECK((*writer)->AddPages(0, {page, 4}, run.data()).ok());
        us += time.elapsed_us();
        bytes += run.size();
      }
      const Stopwatch time;
      INCR_CHECK((*writer)->Commit({}, "image").ok());
      us += time.elapsed_us();
      parent = (*writer)->epoch();
      state.SetIterationTime(us * 1e-6);
      seconds += us * 1e-6;
      cpu += CpuSeconds() - cpu_before;
    }
  }
  std::filesystem::remove_all(path);
  Report(state, bytes, seconds, cpu);
}
BENCHMARK(BM_FivePercentChanged)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(30);

// `range` scattered pages changed: what an epoch costs at least.
void BM_SmallEpoch(benchmark::State& state) {
  const std::string path = Directory();
  {
    auto store = OpenStore(path);
    uint64_t parent = WriteAll(*store, "job", 0), seed = 1u << 21;
    std::vector<uint8_t> page(kPageSize);
    for (auto _ : state) {
      auto writer = store->BeginEpoch("job", parent);
      for (int64_t i = 0; i < state.range(0); ++i) {
        FillPage(++seed | 2, page.data());
        INCR_CHECK((*writer)->AddPages(0, {uint64_t(i) * 50, 1}, page.data()).ok());
      }
      INCR_CHECK((*writer)->Commit({}, std::string(20000, 'i')).ok());
      parent = (*writer)->epoch();
    }
  }
  std::filesystem::remove_all(path);
}
BENCHMARK(BM_SmallEpoch)->Arg(1)->Arg(100)->Arg(2600)->UseRealTime()->Unit(benchmark::kMillisecond);

void DropCaches(const std::string& directory) {
  for (const auto& file : std::filesystem::recursive_directory_iterator(directory)) {
    const int fd = ::open(file.path().c_str(), O_RDONLY);
    if (fd >= 0) ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

void BM_ColdRestore(benchmark::State& state) {
  const std::string path = Directory();
  WriteAll(*OpenStore(path), "job", 0);
  std::vector<uint8_t> target(kPages * kPageSize);
  double seconds = 0, cpu = 0;
  for (auto _ : state) {
    DropCaches(path);
    const double cpu_before = CpuSeconds();
    const Stopwatch time;
    auto reader = StoreReader::Open(path);
    INCR_CHECK(reader.ok());
    const PageTable table = (*reader)->LoadPageTable("job", 1).value();
    std::vector<PageId> ids;
    for (const PageTableEntry& entry : table) ids.push_back(entry.id);
    INCR_CHECK((*reader)->ReadPages(ids, [&](size_t i, const uint8_t* page) {
      std::memcpy(target.data() + table[i].page * kPageSize, page, kPageSize);
      return absl::OkStatus();
    }).ok());
    state.SetIterationTime(time.elapsed_us() * 1e-6);
    seconds += time.elapsed_us() * 1e-6;
    cpu += CpuSeconds() - cpu_before;
  }
  INCR_CHECK(std::memcmp(target.data(), TheMemory().bytes.data(), target.size()) == 0);
  Report(state, double(state.iterations()) * kPages * kPageSize, seconds, cpu);
  std::filesystem::remove_all(path);
}
BENCHMARK(BM_ColdRestore)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(5);

}  // namespace
}  // namespace incr

BENCHMARK_MAIN();
