#include <sys/resource.h>

#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/store_speed/contender.h"

namespace incr::store_speed {

double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

uint64_t BytesWritten() {
  std::ifstream in("/proc/self/io");
  std::string name;
  uint64_t value = 0;
  while (in >> name >> value) {
    if (name == "write_bytes:") return value;
  }
  return 0;
}

absl::StatusOr<Sample> Measure(Contender& contender, const EpochPages& epoch) {
  const uint64_t written = BytesWritten();
  const double cpu_s = CpuSeconds();
  const Stopwatch time;
  INCR_RETURN_IF_ERROR(contender.Write(epoch));
  return Sample{time.elapsed_us() * 1e-6, CpuSeconds() - cpu_s, BytesWritten() - written};
}

void OnAllCores(const std::function<void(unsigned)>& task) {
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back([&, i] { task(i); });
  task(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace incr::store_speed
