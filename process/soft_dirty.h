// soft_dirty.h — the kernel's oldest note of which pages a process wrote: bit 55 of a pagemap entry
// (kPagemapSoftDirty), set by a write, cleared for a whole process at once.
//
// Facts (Linux 6.1; soft_dirty_test.cc pins most): what is *not* a write by a fault sets no bit, even if
// the page then holds something else: moving whole page tables (mremap of 2 MiB and more), a merge by KSM,
// reading memory after MADV_DONTNEED; nor does any write to hugetlbfs. A new or grown mapping reads dirty,
// all of it, and so does the old one that it merges with; an mprotect that merges it with an old one may
// make it forget that. One bit per page and process: whoever else clears it destroys our baseline.
#ifndef INCR_CKPT_PROCESS_SOFT_DIRTY_H_
#define INCR_CKPT_PROCESS_SOFT_DIRTY_H_

#include "absl/status/status.h"
#include "process/process_handle.h"

namespace incr {

// Clears the bits of all pages: walks every page table, with the lock of the address space held. Not one step
// with reading them: the target is stopped. Pages pinned by the kernel (FOLL_PIN) stay dirty.
// Succeeds, and does nothing, where soft-dirty is compiled out (ProbeSoftDirty tells).
absl::Status ClearSoftDirty(const ProcessHandle& process);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_SOFT_DIRTY_H_
