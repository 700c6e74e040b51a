// The store's speed beside its bounds and its rivals, in one run; README.md of benchmarks/ says how to start it.
//
// For each kind of data some rounds; in each round the contenders take turns (another one begins each time) at the same first
// epoch and the same changed epochs, every epoch durable before the next; then the store is read back, cold. Medians of rounds.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/store_speed/contender.h"
#include "benchmarks/store_speed/live_heap.h"
#include "benchmarks/store_speed/report.h"
#include "benchmarks/store_speed/workload.h"

namespace incr::store_speed {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTrialEpochs = 6;

struct Options {
  std::string out, directory = "/var/tmp", data = "synthetic,redis,python", only;
  int rounds = 5, changed = 20;
  uint64_t mib = 1024, heap_mib = 320;
  bool rocks = true;
};

constexpr char kUsage[] =
    "usage: store_benchmark --out DIR [--dir /var/tmp] [--data synthetic,redis,python] [--rounds 5] [--mib 1024]\n"
    "                       [--heap-mib 320] [--changed 20] [--rocks yes|no]\n"
    "       store_benchmark --only store|restore|RocksDB|\"raw writes\"|\"LZ4 alone\" ...   that one alone, for a profiler; no report\n"
    "Writes store.md and store.json into --out. --dir: on the disk to measure; some GiB. Needs redis-server and python3 for\n"
    "--data redis and python, and about 4 GiB of memory. About 4 minutes; measure while nothing else runs.\n";

// A directory of one contender's; gone afterwards.
class Scratch {
 public:
  explicit Scratch(const std::string& base) : path_(base + "/store_benchmarkXXXXXX") {
    INCR_CHECK(::mkdtemp(path_.data()) != nullptr);
  }
  ~Scratch() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

absl::StatusOr<Samples> WriteAll(Contender& contender, const Workload& workload, size_t most = SIZE_MAX) {
  Samples samples;
  for (const EpochPages& epoch : workload.epochs()) {
    if (samples.size() == most) break;
    INCR_ASSIGN_OR_RETURN(const Sample sample, Measure(contender, epoch));
    samples.push_back(sample);
  }
  return samples;
}

// What one leaves behind in the page cache and in the disk's queue must not fall on the next.
void Settle() {
  ::sync();
  ::usleep(100'000);
}

absl::StatusOr<Trial> TryRocks(const Options& options, RocksVariant variant, const Workload& workload) {
  const Scratch scratch(options.directory);
  Samples samples;
  {
    INCR_ASSIGN_OR_RETURN(const std::unique_ptr<Contender> rocks, NewRocks(scratch.path(), variant));
    INCR_ASSIGN_OR_RETURN(samples, WriteAll(*rocks, workload, kTrialEpochs));
  }
  Settle();
  return Trial{RocksName(variant), SpeedOf(workload, samples, 0, 1), SpeedOf(workload, samples, 1, samples.size())};
}

absl::Status MeasureOne(const Options& options, const std::string& name, RocksVariant variant, const Workload& workload,
                        Round* round) {
  const Scratch scratch(options.directory);
  {
    std::unique_ptr<Contender> contender;
    if (name == kStore) {
      INCR_ASSIGN_OR_RETURN(contender, NewStore(scratch.path() + "/store"));
    } else if (name == kRocks) {
      INCR_ASSIGN_OR_RETURN(contender, NewRocks(scratch.path(), variant));
    } else if (name == kRocksSorted) {
      INCR_ASSIGN_OR_RETURN(contender, NewRocks(scratch.path(), RocksVariant::kSstIngest));
    } else if (name == kRaw) {
      INCR_ASSIGN_OR_RETURN(contender, NewRawWrites(scratch.path()));
    } else {
      contender = NewLz4Alone();
    }
    INCR_ASSIGN_OR_RETURN(round->by_name[name], WriteAll(*contender, workload));
  }
  Settle();
  if (name != kStore || options.only == kStore) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(round->restore, MeasureRestore(scratch.path() + "/store", workload));
  return absl::OkStatus();
}

absl::StatusOr<Figures> MeasureWorkload(const Options& options, RocksVariant variant, const Workload& workload) {
  std::vector<std::string> names = {kStore, kRaw, kLz4};
  if (options.rocks) names.insert(names.begin() + 1, {kRocks, kRocksSorted});
  std::vector<Round> rounds(options.rounds);
  for (Round& round : rounds) {
    std::fprintf(stderr, "%s: round %ld of %d\n", workload.name().c_str(), &round - &rounds[0] + 1, options.rounds);
    for (const std::string& name : names) INCR_RETURN_IF_ERROR(MeasureOne(options, name, variant, workload, &round));
    std::rotate(names.begin(), names.begin() + 1, names.end());
  }
  return Summarize(workload, rounds);
}

absl::StatusOr<Workload> MakeWorkload(const Options& options, const std::string& kind) {
  std::fprintf(stderr, "%s: making the data\n", kind.c_str());
  if (kind == "synthetic") return SyntheticWorkload(options.mib, options.changed);
  if (kind == "python") return PythonHeap(options.heap_mib, options.changed);
  if (kind != "redis") return absl::InvalidArgumentError(absl::StrCat("--data: no such kind: ", kind));
  const Scratch scratch("/tmp");
  return RedisHeap(scratch.path(), options.heap_mib, options.changed);
}

// For a profiler: a line a round.
absl::Status MeasureOnly(const Options& options, const Workload& workload) {
  for (int i = 0; i < options.rounds; ++i) {
    Round round;
    INCR_RETURN_IF_ERROR(MeasureOne(options, options.only == "restore" ? kStore : options.only, RocksVariant::kSstIngest, workload, &round));
    const Samples& samples = round.by_name.begin()->second;
    const Speed first = SpeedOf(workload, samples, 0, 1), changed = SpeedOf(workload, samples, 1, samples.size());
    std::vector<double> ms;
    for (size_t epoch = 1; epoch < samples.size(); ++epoch) ms.push_back(samples[epoch].seconds * 1000);
    std::sort(ms.begin(), ms.end());
    std::printf("first %.2f GiB/s, %.2f CPU-s a GiB, %.3f written; changed %.2f, %.2f, %.3f, %.1f to %.1f to %.1f ms\n", first.gib_per_s,
                first.cpu_s_per_gib, first.written_by_payload, changed.gib_per_s, changed.cpu_s_per_gib,
                changed.written_by_payload, ms.front(), ms[ms.size() / 2], ms.back());
    const Restore& back = round.restore;
    if (options.only != "restore") continue;
    std::printf("restore of the first epoch %.0f ms, of the last %.0f, of which opening %.0f, table %.0f; raw disk %.0f ms; single page %.0f us, raw %.0f\n", back.first_seconds * 1e3, back.seconds * 1e3,
                back.open_s * 1e3, back.table_s * 1e3, back.pack_bytes / back.raw_disk_bps * 1e3,
                back.single_us[back.single_us.size() / 2], back.raw_read_us);
  }
  return absl::OkStatus();
}

std::string Header(const Options& options, RocksVariant variant, const std::string& load) {
  return absl::StrFormat(
      "# Store: its speed\n\n`benchmarks/store_benchmark`, %s UTC, %u cores, load before it %s; medians of %d rounds, contenders taking "
      "turns; each epoch durable before the next.\nGiB/s are of pages handed over, whatever becomes of them; payload: the new bodies, "
      "LZ4-compressed one by one. `LZ4 alone` compresses just those, on all cores; `raw writes` are so many bytes by O_DIRECT and "
      "io_uring, 8 x 1 MiB, synced; `RocksDB`: %s.\nCold: the page cache of the store's files dropped by posix_fadvise(DONTNEED).\n",
      absl::FormatTime("%Y-%m-%d %H:%M", absl::Now(), absl::UTCTimeZone()), std::thread::hardware_concurrency(),
      load.substr(0, load.find(' ')), options.rounds, options.rocks ? RocksName(variant) : "left out");
}

absl::Status RunAll(const Options& options) {
  std::vector<Trial> trials;
  std::vector<Figures> all;
  RocksVariant best = RocksVariant::kFlush;
  std::string header, load;
  std::getline(std::ifstream("/proc/loadavg"), load);
  for (const std::string& kind : std::vector<std::string>(absl::StrSplit(options.data, ','))) {
    INCR_ASSIGN_OR_RETURN(const Workload workload, MakeWorkload(options, kind));
    if (!options.only.empty()) {
      INCR_RETURN_IF_ERROR(MeasureOnly(options, workload));
      continue;
    }
    if (options.rocks && trials.empty()) {
      double fastest = 0;
      for (const RocksVariant variant : kRocksVariants) {
        std::fprintf(stderr, "RocksDB: %s\n", RocksName(variant));
        INCR_ASSIGN_OR_RETURN(const Trial trial, TryRocks(options, variant, workload));
        trials.push_back(trial);
        if (variant == RocksVariant::kSstIngest || trial.changed.gib_per_s < fastest) continue;
        fastest = trial.changed.gib_per_s;
        best = variant;
      }
    }
    if (header.empty()) header = Header(options, best, load);
    INCR_ASSIGN_OR_RETURN(Figures figures, MeasureWorkload(options, best, workload));
    all.push_back(std::move(figures));
    // Written after each, that an interrupted run leaves what it has.
    fs::create_directories(options.out);
    std::ofstream(options.out + "/store.md") << Markdown(header, trials, all);
    std::ofstream(options.out + "/store.json") << Json(trials, all);
  }
  if (options.only.empty()) std::fputs(Markdown(header, trials, all).c_str(), stdout);
  return absl::OkStatus();
}

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    bool good = !value.empty();
    if (name == "--out") options->out = value;
    else if (name == "--dir") options->directory = value;
    else if (name == "--data") options->data = value;
    else if (name == "--only") options->only = value;
    else if (name == "--rounds") good = absl::SimpleAtoi(value, &options->rounds) && options->rounds > 0;
    else if (name == "--changed") good = absl::SimpleAtoi(value, &options->changed) && options->changed > 0;
    else if (name == "--mib") good = absl::SimpleAtoi(value, &options->mib) && options->mib > 0;
    else if (name == "--heap-mib") good = absl::SimpleAtoi(value, &options->heap_mib) && options->heap_mib > 0;
    else if (name == "--rocks") options->rocks = value != "no";
    else good = false;
    if (!good) return false;
  }
  return !options->out.empty() || !options->only.empty();
}

}  // namespace
}  // namespace incr::store_speed

int main(int argc, char** argv) {
  incr::store_speed::Options options;
  if (!incr::store_speed::Parse(argc, argv, &options)) {
    std::fputs(incr::store_speed::kUsage, stderr);
    return 2;
  }
  const absl::Status status = incr::store_speed::RunAll(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "store_benchmark: %s\n", status.ToString().c_str());
  return 1;
}
