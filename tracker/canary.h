// canary.h — tells when somebody else has cleared the soft-dirty bits of the target: another
// checkpointer, a garbage collector, a person. The bits then say "clean" of what we never saw.
//
// Right after our own clearing, the target still stopped, one byte of a page or two is written back to itself
// from outside, which sets their bits. At the next Take they must still be set. The program cannot write the
// pages chosen (copies of read-only pages, as every program with relocations has), or has little reason to
// (the strings above the stack): a bit cleared by others is not set again.
//
// Not thread-safe.
#ifndef INCR_CKPT_TRACKER_CANARY_H_
#define INCR_CKPT_TRACKER_CANARY_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "process/memory_map.h"
#include "process/pagemap_scan.h"
#include "process/remote_memory.h"

namespace incr {

enum class CanaryVerdict {
  kAlive,    // only we have cleared
  kDead,     // somebody else has
  kUnknown,  // the program has put something else in their place, or there are none
};

// A page with its entry right after planting, and its entry now. Pure.
CanaryVerdict JudgeCanary(uint64_t planted, uint64_t now);

// How likely the program is to write a private mapping's pages: smaller is better. Pure.
int CanaryRank(const MemoryMapping& mapping);
bool FitForCanary(uint64_t entry);  // Present, and writing to it wakes no userfaultfd of the target's.

class Canaries {
 public:
  struct Candidate {
    uint64_t page = 0;
    int rank = 0;  // CanaryRank
  };

  // Leaves the best of `candidates` marked; their bytes stay what they are. Where none can be marked the
  // next verdict is kUnknown. The target is stopped, its bits were just cleared. `memory` is open for
  // writing.
  void Plant(std::vector<Candidate> candidates, const PagemapScanner& scanner, const RemoteMemory& memory);

  // Read after the entries that it vouches for.
  absl::StatusOr<CanaryVerdict> Check(const PagemapScanner& scanner) const;

  PageSet pages() const;

 private:
  struct Planted {
    uint64_t page, entry;
  };
  std::vector<Planted> planted_;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_CANARY_H_
