// sources.h — the files and shared memory that the plan's mappings are of, opened in our
// own process; the child inherits the descriptors at the same numbers.
#ifndef INCR_CKPT_RESTORE_SOURCES_H_
#define INCR_CKPT_RESTORE_SOURCES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "restore/plan.h"

namespace incr {

// The file of that name, if it is the saved one (check.h); kFailedPrecondition says what is wrong with it.
absl::StatusOr<ScopedFd> OpenSavedFile(const pb::FileIdentity& identity, bool writable,
                                       bool must_be_same);

struct OpenSources {
  std::vector<ScopedFd> fds;  // by index into RestorePlan.sources
  ScopedFd exe;  // none: see exe_is_other
  std::string exe_is_other;  // why it is not the process's program file; "" if it is
};

// All at descriptor numbers >= `first_fd`. kFailedPrecondition names the file that is gone or
// another one. `exe_may_differ`: no mapping is of the program file any more; if it is gone or another
// one, what is at its path stands in for it, or nothing.
absl::StatusOr<OpenSources> OpenPlanSources(const RestorePlan& plan, const pb::FileIdentity& exe,
                                            bool exe_may_differ, int first_fd);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_SOURCES_H_
