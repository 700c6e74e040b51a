// contender.h — who is measured: the store, and what it is measured against. Each takes the same epochs, one after the other.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_CONTENDER_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_CONTENDER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmarks/store_speed/workload.h"

namespace incr::store_speed {

class Contender {
 public:
  virtual ~Contender() = default;
  // Returns when all of it is durable (LZ4 alone: compressed).
  virtual absl::Status Write(const EpochPages& epoch) = 0;
};

enum class RocksVariant { kWalSync, kFlush, kBlobFlush, kSstIngest };
inline constexpr RocksVariant kRocksVariants[] = {RocksVariant::kWalSync, RocksVariant::kFlush,
                                                  RocksVariant::kBlobFlush, RocksVariant::kSstIngest};
const char* RocksName(RocksVariant variant);

// `directory`: empty, on the disk that is measured.
absl::StatusOr<std::unique_ptr<Contender>> NewStore(const std::string& directory);
absl::StatusOr<std::unique_ptr<Contender>> NewRocks(const std::string& directory, RocksVariant variant);
absl::StatusOr<std::unique_ptr<Contender>> NewRawWrites(const std::string& directory);
std::unique_ptr<Contender> NewLz4Alone();

// What one epoch cost.
struct Sample {
  double seconds = 0;
  double cpu_s = 0;
  uint64_t written = 0;  // bytes that this process sent to disks, also behind its back
};
absl::StatusOr<Sample> Measure(Contender& contender, const EpochPages& epoch);

// Bytes that this process has sent to disks so far (/proc/self/io: pages dirtied, direct writes).
uint64_t BytesWritten();

// All threads of this process together.
double CpuSeconds();

// Runs `task(thread)` on a thread per core and waits.
void OnAllCores(const std::function<void(unsigned thread)>& task);

// ---- reading back ----

struct Restore {
  double seconds = 0;       // all of it: open, load the table, read and check all pages
  double open_s = 0, table_s = 0;
  double first_seconds = 0;  // the same of the first epoch, whose pages lie in one piece
  double raw_read_us = 0;    // p50 of one block of a pack, O_DIRECT, at a random place
  double raw_disk_bps = 0;  // the same packs' bytes, read O_DIRECT by io_uring into nowhere
  uint64_t pack_bytes = 0;
  std::vector<double> single_us;  // one page each, sorted
};
// Everything of the store in `directory` cold before each: its files' page cache is dropped by posix_fadvise(DONTNEED).
// Checks what it reads against `workload`.
absl::StatusOr<Restore> MeasureRestore(const std::string& directory, const Workload& workload);

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_CONTENDER_H_
