// show_image.h — what an epoch holds, as `show` tells it. Pure.
#ifndef INCR_CKPT_CLI_SHOW_IMAGE_H_
#define INCR_CKPT_CLI_SHOW_IMAGE_H_

#include <string>
#include <vector>

#include "proto/control.pb.h"
#include "proto/epoch.pb.h"
#include "proto/image.pb.h"
#include "store/page_table.h"

namespace incr {

// `image` may be anything that parses. Its first process is shown.
pb::ShowReply DescribeEpoch(const pb::EpochRecord& record, const pb::Image& image,
                            const PageTable& table);

// Parts of it, for `diff` too.
pb::ShowMapping DescribeMapping(const pb::Mapping& mapping);  // without the counts of pages
std::vector<pb::ShowFile> DescribeFiles(const pb::Process& process, const pb::Image& image);

// For people: aligned tables.
std::string FormatShow(const pb::ShowReply& reply);

}  // namespace incr

#endif  // INCR_CKPT_CLI_SHOW_IMAGE_H_
