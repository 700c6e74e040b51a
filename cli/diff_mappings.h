// diff_mappings.h — mappings that came, went, moved or changed protection between two epochs.
//
// Compared address by address, not mapping by mapping: the kernel splits and joins mappings as protections
// change, and a heap that grew came only where it grew. Moved: one that went and one that came, both whole,
// of the same kind, name, size and offset, and (memory without a name: any program maps and unmaps such)
// with the same pages gone there and added here. Pure.
#ifndef INCR_CKPT_CLI_DIFF_MAPPINGS_H_
#define INCR_CKPT_CLI_DIFF_MAPPINGS_H_

#include <vector>

#include "proto/control.pb.h"
#include "proto/image.pb.h"
#include "store/table_diff.h"

namespace incr {

// By address. Both images are valid and have a process.
std::vector<pb::DiffMapping> DiffMappings(const pb::Image& before, const pb::Image& after,
                                          const PageChanges& changes);

}  // namespace incr

#endif  // INCR_CKPT_CLI_DIFF_MAPPINGS_H_
