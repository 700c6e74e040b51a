// verify.h — reads everything a store holds and checks every checksum and hash.
//
//   database files -> index, by packs -> packs in order, segments and bodies -> epochs: record, image, manifest
//
// A reader: takes no lock, changes nothing, works beside a live writer on a snapshot. Memory: index entries of a
// few packs at a time, one page table, and the ids of the pages that are lost.
#ifndef INCR_CKPT_STORE_VERIFY_H_
#define INCR_CKPT_STORE_VERIFY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "store/file_io.h"

namespace incr {

struct VerifyProgress {
  uint64_t bytes = 0, total_bytes = 0;  // of packs
  uint64_t epochs = 0;
};

struct VerifyOptions {
  std::string job;     // "": of all jobs, and what no epoch uses as well
  uint64_t epoch = 0;  // of `job`; 0: all its epochs
  bool latest = false;  // the job's newest epoch, whether its record is whole or not
  FileFaults* faults = nullptr;  // for tests: a faulty disk
  std::function<void(const VerifyProgress&)> progress;  // often, from the caller's thread; may be null
};

struct Damage {
  std::string object;  // "packs/00000001.pack", "db", "commits", "generation"; relative to the store
  uint64_t offset = 0, bytes = 0;  // of a pack
  std::string what;
};

struct LostRun {
  uint32_t space = 0;
  PageRange pages;
};

struct DamagedEpoch {
  std::string job;
  uint64_t epoch = 0;
  std::vector<std::string> problems;  // of its record, image, manifest or chain
  uint64_t lost_pages = 0;
  std::vector<LostRun> lost;  // the first kMostLostRuns of them
};
inline constexpr size_t kMostLostRuns = 1000;
inline constexpr size_t kMostDamages = 10'000;  // more are counted, not listed

struct VerifyReport {
  uint64_t epoch = 0;  // that was looked at alone; 0: all of them
  uint64_t jobs = 0, epochs = 0, packs = 0, segments = 0, pages = 0, bytes = 0;
  std::vector<Damage> damage;
  uint64_t damage_count = 0;
  std::vector<DamagedEpoch> damaged_epochs;
  bool ok() const { return damage_count == 0 && damaged_epochs.empty(); }
};

// An error: no store, a newer version, or no such job or epoch. Damage is no error but in the report.
absl::StatusOr<VerifyReport> VerifyStore(const std::string& directory, const VerifyOptions& options);

}  // namespace incr

#endif  // INCR_CKPT_STORE_VERIFY_H_
