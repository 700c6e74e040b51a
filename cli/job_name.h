// job_name.h — names of jobs: [A-Za-z0-9._-]{1,64}, not "." or "..". Pure.
#ifndef INCR_CKPT_CLI_JOB_NAME_H_
#define INCR_CKPT_CLI_JOB_NAME_H_

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace incr {

// kInvalidArgument names the rule.
absl::Status CheckJobName(absl::string_view name);

// "<command>-<pid>" with every other character replaced by '_'.
std::string DefaultJobName(absl::string_view command, pid_t pid);

// "71" is pid 71; anything else is none.
std::optional<pid_t> ParsePid(absl::string_view text);

}  // namespace incr

#endif  // INCR_CKPT_CLI_JOB_NAME_H_
