// report.h — from samples to medians, bars, a table and JSON. Pure.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_REPORT_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_REPORT_H_

#include <map>
#include <string>
#include <vector>

#include "benchmarks/store_speed/contender.h"
#include "benchmarks/store_speed/workload.h"

namespace incr::store_speed {

inline constexpr const char* kStore = "store";
inline constexpr const char* kRocks = "RocksDB";
inline constexpr const char* kRocksSorted = "RocksDB, sorted files";
inline constexpr const char* kRaw = "raw writes";
inline constexpr const char* kLz4 = "LZ4 alone";

// A contender's samples of one round: [0] is the first epoch.
using Samples = std::vector<Sample>;

struct Round {
  std::map<std::string, Samples> by_name;
  Restore restore;
};

struct Speed {
  double gib_per_s = 0;    // of pages, whatever became of them
  double cpu_s_per_gib = 0;
  double written_by_payload = 0;
};

struct Bar {
  std::string what;
  double value = 0, bar = 0;
  bool at_least = true;
  bool met() const { return at_least ? value >= bar : value <= bar; }
};

// What was measured with one workload.
struct Figures {
  std::string workload;
  uint64_t first_pages = 0, first_zero = 0, first_fresh = 0, changed_pages = 0, changed_fresh = 0;  // changed: of an epoch
  double first_ratio = 0, changed_ratio = 0;  // payload by fresh bytes
  std::map<std::string, Speed> first, changed;  // medians of the rounds
  double durable_p50_ms = 0, durable_p90_ms = 0, durable_max_ms = 0;  // of all changed epochs of all rounds
  double first_restore_gib_per_s = 0, raw_block_us = 0;
  double restore_gib_per_s = 0, raw_read_gib_per_s = 0, raw_bound_gib_per_s = 0;
  double single_p50_us = 0, single_p90_us = 0;
  std::vector<Bar> bars;
};

Speed SpeedOf(const Workload& workload, const Samples& samples, size_t first, size_t end);
Figures Summarize(const Workload& workload, const std::vector<Round>& rounds);

struct Trial {
  std::string name;
  Speed first, changed;
};
std::string Markdown(const std::string& header, const std::vector<Trial>& trials, const std::vector<Figures>& all);
std::string Json(const std::vector<Trial>& trials, const std::vector<Figures>& all);

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_REPORT_H_
