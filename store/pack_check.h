// pack_check.h — every byte of a pack, checked: its header, its segments, each body against its id.
//
// Two sources say what a pack holds, and each is used to check the other: the segments' own tables, and the
// index. A body that only one of them knows is still found, so a damaged segment header costs no page.
//
// Reads past what the page cache remembers, in order, and decodes on the workers: at most a few segments are
// in memory. One Check() at a time.
#ifndef INCR_CKPT_STORE_PACK_CHECK_H_
#define INCR_CKPT_STORE_PACK_CHECK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "store/file_io.h"
#include "store/pack_format.h"
#include "store/pack_reader.h"
#include "store/page_index.h"
#include "store/worker_pool.h"

namespace incr {

struct PackDamage {
  uint32_t pack = 0;
  uint64_t offset = 0, bytes = 0;
  std::string what;
};

struct PackCheck {
  uint64_t segments = 0, bodies = 0, bytes = 0;
  std::vector<PackDamage> damage;  // by offset
  std::vector<IndexEntry> intact;  // each read, decoded and hashed
  std::vector<IndexEntry> lost;    // listed in a segment or in the index; not readable
  absl::Status hindered;           // for want of memory, files or permission: `lost` may be whole all the same
};

class PackChecker {
 public:
  // All outlive it. `on_bytes` is told how far it is, from this thread.
  PackChecker(std::string directory, uint64_t store_tag, const PackReader* reader, WorkerPool* workers,
              std::function<void(uint64_t bytes)> on_bytes, FileIo io = FileIo())
      : directory_(std::move(directory)),
        io_(io),
        tag_(store_tag),
        reader_(reader),
        workers_(workers),
        on_bytes_(std::move(on_bytes)) {}

  // The first `length` bytes of `pack`; what follows was never committed. `index`: the entries that point into
  // it, by offset.
  PackCheck Check(uint32_t pack, uint64_t length, absl::Span<const IndexEntry> index);

  // Only the bodies in `index`, which lie in any packs, by place.
  PackCheck CheckBodies(absl::Span<const IndexEntry> index);

 private:
  const std::string directory_;
  const FileIo io_;
  const uint64_t tag_;
  const PackReader* const reader_;
  WorkerPool* const workers_;
  const std::function<void(uint64_t bytes)> on_bytes_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_PACK_CHECK_H_
