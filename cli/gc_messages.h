// gc_messages.h — gc's options and results as messages of the API, and back. Pure.
#ifndef INCR_CKPT_CLI_GC_MESSAGES_H_
#define INCR_CKPT_CLI_GC_MESSAGES_H_

#include "absl/status/statusor.h"
#include "proto/control.pb.h"
#include "store/gc_options.h"
#include "store/gc_policy.h"

namespace incr {

pb::GcRules RulesOf(const GcPolicy& policy);
// kInvalidArgument names the rule that is out of bounds.
absl::StatusOr<GcPolicy> PolicyOf(const pb::GcRules& rules);

// Without the callbacks.
absl::StatusOr<GcOptions> GcOptionsOf(const pb::GcRequest& request);
pb::GcReply GcReplyOf(const GcResult& result, bool dry_run);

}  // namespace incr

#endif  // INCR_CKPT_CLI_GC_MESSAGES_H_
