// spawn_daemon.h — starts a daemon that outlives us: own session, no descriptor of ours,
// cwd "/".
#ifndef INCR_CKPT_CLI_SPAWN_DAEMON_H_
#define INCR_CKPT_CLI_SPAWN_DAEMON_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace incr {

// Runs `command` (a path and arguments) with the number of its ready pipe appended, and returns
// when it says kReadyLine. kAborted: somebody else writes to the store (look for their
// daemon). Other errors are the daemon's own words. Thread-safe.
absl::Status SpawnDaemon(const std::vector<std::string>& command);

}  // namespace incr

#endif  // INCR_CKPT_CLI_SPAWN_DAEMON_H_
