// rebuild_index.h — the index made anew from what the packs say of themselves.
//
// For a store whose database is damaged, or whose index lost entries. Epochs live in the
// database only: what RocksDB's own repair cannot salvage of them stays lost.
#ifndef INCR_CKPT_STORE_REBUILD_INDEX_H_
#define INCR_CKPT_STORE_REBUILD_INDEX_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace incr {

struct RebuildResult {
  uint64_t packs = 0;
  uint64_t segments = 0;
  uint64_t pages = 0;          // in the new index, each body read and checked
  uint64_t damaged_pages = 0;  // listed in a segment, but the body does not match its id
  uint64_t skipped_bytes = 0;  // of packs, in no whole segment
  bool database_repaired = false;
};

// Needs the writer's lock. Interrupted, it can be run again.
absl::StatusOr<RebuildResult> RebuildIndex(const std::string& directory);

}  // namespace incr

#endif  // INCR_CKPT_STORE_REBUILD_INDEX_H_
