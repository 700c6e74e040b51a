// repair_swap.h — a repaired database takes the place of the old one, in steps that can be done again.
//
//   repair.tmp/db and packs complete -> repair.tmp/ready, durable -> repair.tmp/packs to packs
//   -> db to before-repair-N/db -> repair.tmp/db to db -> damaged packs to before-repair-N/packs -> repair.tmp goes
//
// For repair.cc, under the writer's lock.
#ifndef INCR_CKPT_STORE_REPAIR_SWAP_H_
#define INCR_CKPT_STORE_REPAIR_SWAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "store/store_directory.h"

namespace incr {

struct RepairPaths {
  explicit RepairPaths(const StorePaths& store)
      : tmp(store.repair),
        db(tmp + "/db"),
        packs(tmp + "/packs"),
        salvage(tmp + "/salvage"),
        ready(tmp + "/ready") {}
  std::string tmp, db, packs, salvage, ready;
};

// "before-repair-N": the first that is free.
std::string ChooseSetAside(const StorePaths& store);

// From here on the repair will be finished, if need be by the next one.
absl::Status WriteReady(const RepairPaths& repair, const std::string& set_aside,
                        const std::vector<uint32_t>& damaged_packs, FileIo io);

// Does what is left to do. Returns the name of the set-aside directory; "": no repair was ready.
absl::StatusOr<std::string> FinishSwap(const StorePaths& store);

}  // namespace incr

#endif  // INCR_CKPT_STORE_REPAIR_SWAP_H_
