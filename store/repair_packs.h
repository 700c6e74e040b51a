// repair_packs.h — the index made anew from what the packs hold, for repair.cc.
#ifndef INCR_CKPT_STORE_REPAIR_PACKS_H_
#define INCR_CKPT_STORE_REPAIR_PACKS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "store/kv_db.h"
#include "store/store_directory.h"

namespace incr {

struct RebuiltPacks {
  uint64_t pages = 0;
  uint64_t bodies_lost = 0;
  std::vector<uint32_t> damaged;  // their intact bodies are in new packs now (not in a dry run)
};

// Every intact body of every pack goes into the index of `into`. `source` (may be null): the old database; its
// index knows of bodies whose segment is damaged. `trusted`: it is whole, so what lies behind its packs' lengths
// was never committed. New packs go to `new_packs`, a directory, and are read back there; none is changed.
absl::StatusOr<RebuiltPacks> RebuildPacks(const StorePaths& paths, const std::string& new_packs, const StoreIdentity& identity,
                                          const KvDb* source, bool trusted, bool dry_run,
                                          const std::function<void(uint64_t bytes)>& progress, KvDb* into);

}  // namespace incr

#endif  // INCR_CKPT_STORE_REPAIR_PACKS_H_
