// excluded_memory.h — memory that its program asked not to save: madvise(MADV_DONTDUMP).
//
// The advice is a VMA flag ("dd" of smaps). No fast interface shows it, and it may change without any
// change of the layout: an madvise of a whole VMA splits nothing. Allocators mark free memory so and
// take that back when they hand it out, at any rate; what was read before a freeze and
// after it proves nothing. So what is left out is decided by flags read in the freeze, and only a process
// that has such memory pays for that (10 ms per GiB below the last such mapping). Flags read before say
// only whether it has; if they are old, new advice takes effect later, and nothing is lost.
//
// Whose advice counts: the program's own memory, that is private mappings (of a file: its pages come back as
// the file's) and shared anonymous memory, mapping by mapping: a page that another mapping without the advice
// shows as well is saved through that one. Not files mapped shared: a restore writes them back, and what
// is missing from the table would be emptied in the file, which belongs to others too. Not mappings
// of the kernel or of drivers: their "dd" is not the program's word.
#ifndef INCR_CKPT_CHECKPOINT_EXCLUDED_MEMORY_H_
#define INCR_CKPT_CHECKPOINT_EXCLUDED_MEMORY_H_

#include "absl/status/status.h"
#include "base/page_range.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "proto/image.pb.h"

namespace incr {

// The pages that `flags` (of ReadSmaps) excludes. Pure.
PageSet DontDumpPages(const MemoryMap& flags);

// What one epoch leaves out: Begin -> HoldBack* -> Decide, in the freeze -> Record. Not thread-safe.
class ExcludedMemory {
 public:
  // `include_all`: nothing is ever left out.
  explicit ExcludedMemory(bool include_all) : include_all_(include_all) {}

  // `flags`: as new as may be. Nothing outside of what they exclude will be left out.
  void Begin(const MemoryMap& flags);

  // Takes out of what a pre-copy round found that which will probably be left out, and
  // returns it. It is not saved yet: for the tracker's PutBack.
  PageSet HoldBack(PageSet* written) const;

  // Target stopped. The result is for the tracker's Exclude.
  absl::StatusOr<PageSet> Decide(const ProcessHandle& target);

  // Into the image of that freeze: which mappings were left out, how many pages each had (`left_out`: the
  // tracker's answer), and a warning of how much it is in all. The advice itself is recorded as it
  // was in the freeze.
  void Record(const PageSet& left_out, pb::Process* process, pb::Image* image) const;

 private:
  const bool include_all_;
  PageSet candidates_;
  PageSet decided_;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_EXCLUDED_MEMORY_H_
