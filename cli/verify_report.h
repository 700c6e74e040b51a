// verify_report.h — what verify found, with addresses and the names of mappings. Pure.
#ifndef INCR_CKPT_CLI_VERIFY_REPORT_H_
#define INCR_CKPT_CLI_VERIFY_REPORT_H_

#include <string>
#include <vector>

#include "proto/control.pb.h"
#include "proto/image.pb.h"
#include "store/verify.h"

namespace incr {

// `lost` cut at the mappings of `image`, each piece named after its own.
std::vector<pb::VerifyRange> NameLostRuns(const std::vector<LostRun>& lost, const pb::Image& image);

// Counts and damage; ranges are for NameLostRuns.
pb::VerifyReply DescribeVerify(const VerifyReport& report);

std::string FormatVerify(const pb::VerifyReply& reply);

}  // namespace incr

#endif  // INCR_CKPT_CLI_VERIFY_REPORT_H_
