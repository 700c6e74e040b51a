// build_memory.h — the child's address space becomes the plan's. Each function is one
// step of restore.h, in this order. An error names the mapping.
#ifndef INCR_CKPT_RESTORE_BUILD_MEMORY_H_
#define INCR_CKPT_RESTORE_BUILD_MEMORY_H_

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/plan.h"
#include "restore/sources.h"
#include "restore/workbench.h"

namespace incr {

// Unmaps all that the child inherited from us, except the workbench and the vdso, which goes
// to its old address together with its data pages (the code finds them relative to itself).
// kFailedPrecondition: this kernel's vdso has another shape.
absl::Status ReplaceAddressSpace(Workbench& bench, const RestorePlan& plan);

// All mappings, empty. `sources`: open in the child under the same numbers.
absl::Status MapAll(Workbench& bench, const RestorePlan& plan, const OpenSources& sources);

// After the pages are in: final protections, advice, names, locks.
absl::Status FinishMappings(Workbench& bench, const RestorePlan& plan, pb::Image* image);

// brk, stack, arguments, auxiliary vector, /proc/<pid>/exe.
absl::Status SetLayout(Workbench& bench, const pb::MemoryLayout& layout, int exe_fd);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_BUILD_MEMORY_H_
