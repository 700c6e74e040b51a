#include "process/collapse.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {

absl::Status CollapseHugePage(const ProcessHandle& process, RemoteAddr at) {
  iovec range{reinterpret_cast<void*>(at.value()), kHugePageSize};
  // EAGAIN: somebody looks at one of the pages just now.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const long done =
        ::syscall(SYS_process_madvise, process.pidfd(), &range, 1, MADV_COLLAPSE, 0);
    if (done == static_cast<long>(kHugePageSize)) return absl::OkStatus();
    if (done >= 0 || errno != EAGAIN) break;
  }
  return ErrnoStatus(absl::StrFormat("process_madvise(%d, %x, MADV_COLLAPSE)", process.pid(), at.value()));
}

}  // namespace incr
