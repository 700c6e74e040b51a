// diff_image.h — what differs between two epochs, as `diff` tells it. Pure.
#ifndef INCR_CKPT_CLI_DIFF_IMAGE_H_
#define INCR_CKPT_CLI_DIFF_IMAGE_H_

#include <cstdint>
#include <string>

#include "proto/control.pb.h"
#include "proto/epoch.pb.h"
#include "proto/image.pb.h"
#include "store/table_diff.h"

namespace incr {

struct EpochSide {
  pb::EpochRecord record;
  pb::Image image;  // valid (ParseImage); its first process is compared
};

// Everything but `bytes`. A page counts with the later epoch's mapping at its address, else with the earlier's.
pb::DiffReply DescribeDiff(const EpochSide& before, const EpochSide& after,
                           const PageChanges& changes);

// The mapping over `page`, or null.
const pb::Mapping* MappingOf(const pb::Process& process, uint64_t page);

// For people.
std::string FormatDiff(const pb::DiffReply& reply);

}  // namespace incr

#endif  // INCR_CKPT_CLI_DIFF_IMAGE_H_
