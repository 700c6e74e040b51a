#include "process/soft_dirty.h"

#include <fcntl.h>

#include <string>

#include "absl/strings/str_format.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "base/status.h"

namespace incr {

absl::Status ClearSoftDirty(const ProcessHandle& process) {
  const std::string path = process.ProcPath("clear_refs");
  INCR_ASSIGN_OR_RETURN(const ScopedFd fd, OpenFile(path, O_WRONLY));
  // A pid that was reused meanwhile: not a stranger's bits.
  if (!process.alive()) {
    return absl::NotFoundError(absl::StrFormat("process %d has exited", process.pid()));
  }
  INCR_RETURN_IF_ERROR(WriteExactly(fd.get(), "4", 1, path));
  return FaultPoint("process.soft_dirty_cleared");
}

}  // namespace incr
