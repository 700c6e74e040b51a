// session_factory.h — the world the daemon acts on, behind a seam: the real one traces
// processes (real_sessions.h), a test's one is a script.
#ifndef INCR_CKPT_CLI_SESSION_FACTORY_H_
#define INCR_CKPT_CLI_SESSION_FACTORY_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "checkpoint/session.h"

namespace incr {

// What a request asks of a session.
struct TrackingOptions {
  std::string job;
  std::string tracker;  // "": the best that works
  bool allow_unsupported = false;
  bool include_dontdump = false;
  bool save_file_pages = false;
  bool launched = false;  // let it go (SIGCONT) when its first epoch is durable
  std::optional<uint32_t> precopy_rounds;  // none: the session's default
};

// Thread-safe. A session is used and destroyed by the thread that made it.
class SessionFactory {
 public:
  virtual ~SessionFactory() = default;

  // The process's command name if it may be tracked; otherwise one sentence for the user. A
  // process that `holder` (0: nobody) traces is not "traced by someone else".
  virtual absl::StatusOr<std::string> CheckTarget(pid_t pid, pid_t holder) = 0;

  // Our own descriptor of the open file `fd` of process `pid`.
  virtual absl::StatusOr<ScopedFd> TakeDescriptor(pid_t pid, int fd) = 0;

  virtual absl::StatusOr<std::unique_ptr<CheckpointSession>> Start(
      pid_t pid, const TrackingOptions& options) = 0;

  // `pid` was just restored to `epoch` of options.job and is held stopped until the
  // caller of this has said so; the session's first TakeEpoch waits for its release.
  virtual absl::StatusOr<std::unique_ptr<CheckpointSession>> Adopt(
      pid_t pid, uint64_t epoch, ScopedFd uffd, const TrackingOptions& options) = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_SESSION_FACTORY_H_
