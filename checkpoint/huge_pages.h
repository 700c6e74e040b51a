// huge_pages.h — transparent huge pages that came apart while a process was tracked, and their mending.
//
// Write protection itself leaves a huge page whole; the first write to it splits its mapping, so that
// one page of 4 KiB is reported and not 512 (kernel.md, 11). The program then pays for more TLB misses. The
// kernel's own daemon mends that in minutes or never, and not while we protect.
//
// Counted: blocks of 2 MiB of private anonymous memory that were mapped by a huge page at one look and are not at
// a later one, although every page of theirs still has content. A program's own mprotect or fork may
// have split one as well; that cannot be told from outside.
//
// Not thread-safe.
#ifndef INCR_CKPT_CHECKPOINT_HUGE_PAGES_H_
#define INCR_CKPT_CHECKPOINT_HUGE_PAGES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/page_range.h"
#include "process/memory_map.h"
#include "process/process_handle.h"

namespace incr {

struct HugePageCount {
  uint64_t seen = 0;       // huge pages, whole or split by now
  uint64_t split = 0;      // of them; after mending: before it
  uint64_t collapsed = 0;  // of those that were split: whole again by our doing
};

class HugePages {
 public:
  // 0.03 to 1 ms per GiB; no freeze. The target may run. Where there is no PAGEMAP_SCAN nothing is counted.
  absl::Status Look(const ProcessHandle& target, const MemoryMap& map);

  // The last look was long enough ago for another to cost less than 1 % of a CPU.
  bool LookIsCheap() const;

  const HugePageCount& count() const { return count_; }

  // Collapses what the last look found split. REQUIRES: the target is tracked no more.
  void Mend(const ProcessHandle& target);

 private:
  PageSet seen_;   // whole blocks
  PageSet split_;  // of them
  HugePageCount count_;
  int64_t looked_us_ = 0, cost_us_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_HUGE_PAGES_H_
