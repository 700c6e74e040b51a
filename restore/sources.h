// sources.h — the files and shared memory that the plan's mappings are of, opened in our
// own process; the child inherits the descriptors at the same numbers.
#ifndef INCR_CKPT_RESTORE_SOURCES_H_
#define INCR_CKPT_RESTORE_SOURCES_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "restore/plan.h"

namespace incr {

struct OpenSources {
  std::vector<ScopedFd> fds;  // by index into RestorePlan.sources
  ScopedFd exe;
};

// All at descriptor numbers >= `first_fd`. kFailedPrecondition names the file that is gone or
// another one.
absl::StatusOr<OpenSources> OpenPlanSources(const RestorePlan& plan, const pb::FileIdentity& exe,
                                            int first_fd);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_SOURCES_H_
