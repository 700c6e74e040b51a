// repair.h — a damaged store made whole again, without what cannot be saved.
//
//   verify -> what can be read of the database -> index from the packs -> epochs whose every page, image and
//   manifest is there -> a new database beside the old one -> the two change places
//
// Never makes a good store worse: one without damage is left as it is; nothing is deleted, the old database and
// damaged packs move to <store>/before-repair-N. Until the new database is complete nothing changes, from then
// on (repair.tmp/ready) an interrupted repair is finished by the next one. One that fails before removes what it has
// made; what one that was killed has left, the next one removes.
//
// Memory: as verify, and the entries of one pack.
#ifndef INCR_CKPT_STORE_REPAIR_H_
#define INCR_CKPT_STORE_REPAIR_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "store/file_io.h"

namespace incr {

struct RepairOptions {
  bool dry_run = false;
  FileFaults* faults = nullptr;  // for tests: a faulty disk
  std::function<void(const std::string& step, uint64_t bytes)> progress;  // may be null
};

struct DroppedEpoch {
  std::string job;
  uint64_t epoch = 0;
  std::string why;
};

struct RepairResult {
  bool damaged = false;       // false: nothing was done
  std::string database;       // "whole", "salvaged" or "lost"
  std::string set_aside;      // directory with what was replaced; "": nothing was
  uint64_t epochs_kept = 0;
  uint64_t pages = 0;         // in the new index, each body read and checked
  uint64_t bodies_lost = 0;   // damaged bodies
  std::vector<DroppedEpoch> dropped;
  std::vector<std::string> done;  // a sentence each
  // Acknowledged epochs may be missing and nothing is left that could tell.
  std::vector<std::string> warnings;  // a sentence each
  uint64_t jobs_in_doubt = 0;         // whose newest epochs those may be
};

// Takes the writer's lock. kFailedPrecondition "locked": a daemon has it.
absl::StatusOr<RepairResult> RepairStore(const std::string& directory, const RepairOptions& options);

}  // namespace incr

#endif  // INCR_CKPT_STORE_REPAIR_H_
