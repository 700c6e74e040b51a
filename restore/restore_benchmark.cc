// How fast a process of 1 GiB comes back from a store whose files are in the page cache.
#include <benchmark/benchmark.h>

#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "restore/round_trip.h"
#include "store/store.h"

namespace incr {
namespace {

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::abort();
}

// Of all our threads.
double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

// argument: MiB of the program. Counts the time of RestoreEpoch alone.
void BM_RestoreFromStore(benchmark::State& state) {
  RoundTrip trip;
  Check(trip.Start({"rst_large", std::to_string(state.range(0))}));
  auto captured = trip.Checkpoint();
  Check(captured.status());
  trip.Kill();
  const std::string directory = trip.directory() + "/store";
  StoreOptions options;
  options.create_if_missing = true;
  auto store = Store::Open(directory, options);
  Check(store.status());
  auto writer = (*store)->BeginEpoch("job", 0);
  Check(writer.status());
  uint64_t pages = 0;
  const auto& epoch = trip.store().epoch(*captured);
  for (const auto& [page, bytes] : epoch.pages) {
    Check((*writer)->AddPages(0, {page, 1}, reinterpret_cast<const uint8_t*>(bytes.data())));
    ++pages;
  }
  auto record = (*writer)->Commit({}, epoch.image);
  Check(record.status());
  // Packs are written past the page cache: the first restore reads them from the disk.
  Check(RestoreEpoch(**store, "job", record->epoch(), {}).status());
  double cpu_s = 0;
  for (auto _ : state) {
    const Stopwatch watch;
    const double cpu_before_s = CpuSeconds();
    auto restored = RestoreEpoch(**store, "job", record->epoch(), {});
    cpu_s += CpuSeconds() - cpu_before_s;
    state.SetIterationTime(watch.elapsed_us() * 1e-6);
    Check(restored.status());
  }
  state.SetBytesProcessed(state.iterations() * pages * 4096);
  state.counters["cpu_s"] = cpu_s / state.iterations();  // all threads; fair on a busy machine
  state.counters["pages"] = static_cast<double>(pages);
}
BENCHMARK(BM_RestoreFromStore)->Arg(1)->Arg(1024)->Iterations(8)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace incr

BENCHMARK_MAIN();
