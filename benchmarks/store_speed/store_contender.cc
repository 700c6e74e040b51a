#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "benchmarks/store_speed/contender.h"
#include "benchmarks/store_speed/direct_io.h"
#include "store/store.h"

namespace incr::store_speed {
namespace {

constexpr uint64_t kPagesPerCall = 256;  // as a session hands them over
constexpr int kSingleReads = 400;
constexpr int kReadsPerReader = 20;  // then opened anew, that its cache of the index stays cold
const char* const kJob = "job";

class TheStore : public Contender {
 public:
  explicit TheStore(std::unique_ptr<Store> store) : store_(std::move(store)) {}
  absl::Status Write(const EpochPages& epoch) override {
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<EpochWriter> writer, store_->BeginEpoch(kJob, last_));
    for (const Run& run : epoch.runs) {
      for (uint64_t i = 0; i < run.range.count; i += kPagesPerCall) {
        const PageRange part{run.range.first + i, std::min(kPagesPerCall, run.range.count - i)};
        INCR_RETURN_IF_ERROR(writer->AddPages(0, part, run.bytes + i * kPageSize));
      }
    }
    INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record, writer->Commit({}, image_));
    last_ = record.epoch();
    if (record.stats().pages_stored() == epoch.fresh.size()) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("epoch ", last_, ": ", record.stats().pages_stored(), " pages stored, ",
                                            epoch.fresh.size(), " are new"));
  }

 private:
  const std::unique_ptr<Store> store_;
  const std::string image_ = std::string(20'000, 'i');  // about what a small process has
  uint64_t last_ = 0;
};

void DropPageCache(const std::string& directory) {
  for (const auto& file : std::filesystem::recursive_directory_iterator(directory)) {
    const ScopedFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.ok()) ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

std::vector<std::string> Packs(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& file : std::filesystem::directory_iterator(directory + "/packs")) paths.push_back(file.path());
  return paths;
}

// Seconds that `epoch` takes into `memory`; `expected(page)` is what must come.
absl::StatusOr<double> RestoreEpoch(const std::string& directory, uint64_t epoch, uint64_t pages, uint8_t* memory,
                                    const std::function<const uint8_t*(uint64_t)>& expected, Restore* parts) {
  DropPageCache(directory);
  const Stopwatch time;
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(directory));
  parts->open_s = time.elapsed_us() * 1e-6;
  INCR_ASSIGN_OR_RETURN(const PageTable table, reader->LoadPageTable(kJob, epoch));
  parts->table_s = time.elapsed_us() * 1e-6 - parts->open_s;
  if (table.size() != pages) return absl::DataLossError("restore: a table of another size");
  std::vector<PageId> ids;
  ids.reserve(table.size());
  for (const PageTableEntry& entry : table) ids.push_back(entry.id);
  INCR_RETURN_IF_ERROR(reader->ReadPages(ids, [&](size_t i, const uint8_t* page) {
    std::memcpy(memory + i * kPageSize, page, kPageSize);
    return absl::OkStatus();
  }));
  const double seconds = time.elapsed_us() * 1e-6;
  for (size_t i = 0; i < table.size(); ++i) {
    if (std::memcmp(memory + i * kPageSize, expected(table[i].page), kPageSize) != 0) {
      return absl::DataLossError("restore: not the page that was stored");
    }
  }
  return seconds;
}

absl::StatusOr<std::vector<double>> ReadSinglePages(const std::string& directory, const Workload& workload) {
  std::mt19937_64 random(3);
  std::vector<double> took_us;
  while (took_us.size() < kSingleReads) {
    INCR_ASSIGN_OR_RETURN(std::unique_ptr<StoreReader> reader, StoreReader::Open(directory));
    INCR_ASSIGN_OR_RETURN(const PageTable table, reader->LoadPageTable(kJob, workload.epochs().size()));
    for (int n = 0; n < kReadsPerReader;) {
      const PageTableEntry& entry = table[random() % table.size()];
      if (entry.id.is_zero_page()) continue;
      ++n;
      DropPageCache(directory);
      bool same = false;
      const auto start = std::chrono::steady_clock::now();
      INCR_RETURN_IF_ERROR(reader->ReadPages({&entry.id, 1}, [&](size_t, const uint8_t* page) {
        same = std::memcmp(page, workload.Final(entry.page), kPageSize) == 0;
        return absl::OkStatus();
      }));
      took_us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
      if (!same) return absl::DataLossError("a single page is not what was stored");
    }
  }
  std::sort(took_us.begin(), took_us.end());
  return took_us;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Contender>> NewStore(const std::string& directory) {
  StoreOptions options;
  options.create_if_missing = true;
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(directory, options));
  return std::make_unique<TheStore>(std::move(store));
}

absl::StatusOr<Restore> MeasureRestore(const std::string& directory, const Workload& workload) {
  AlignedBuffer memory(workload.table_pages() * kPageSize);
  if (memory.data() == nullptr) return absl::ResourceExhaustedError("no memory to restore into");
  std::memset(memory.data(), 1, memory.size());
  Restore restore;
  const std::vector<std::string> packs = Packs(directory);
  for (const std::string& pack : packs) restore.pack_bytes += std::filesystem::file_size(pack);
  INCR_ASSIGN_OR_RETURN(restore.raw_disk_bps, RawReadSpeed(packs));
  INCR_ASSIGN_OR_RETURN(restore.raw_read_us, RawBlockRead(packs));
  INCR_ASSIGN_OR_RETURN(restore.first_seconds, RestoreEpoch(directory, 1, workload.first_pages(), memory.data(),
                                                            [&](uint64_t page) { return workload.First(page); }, &restore));
  INCR_ASSIGN_OR_RETURN(restore.seconds, RestoreEpoch(directory, workload.epochs().size(), workload.table_pages(), memory.data(),
                                                      [&](uint64_t page) { return workload.Final(page); }, &restore));
  INCR_ASSIGN_OR_RETURN(restore.single_us, ReadSinglePages(directory, workload));
  return restore;
}

}  // namespace incr::store_speed
