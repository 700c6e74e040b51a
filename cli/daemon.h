// daemon.h — the store's one writer: tracks jobs until the last has ended.
#ifndef INCR_CKPT_CLI_DAEMON_H_
#define INCR_CKPT_CLI_DAEMON_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/daemon_settings.h"
#include "cli/session_factory.h"
#include "store/store.h"

namespace incr {

struct DaemonDependencies {
  std::function<absl::StatusOr<std::unique_ptr<Store>>(const std::string& directory)> open_store;
  std::function<std::unique_ptr<SessionFactory>(Store* store)> make_sessions;
};

struct DaemonOptions {
  std::string store;   // absolute
  int ready_fd = -1;   // gets kReadyLine, or one line that says why not; then closed
  DaemonSettings settings;  // as open_store keeps it: what a start may ask for
  double first_grace_s = 10;  // exits when nobody starts a job for so long
  double grace_s = 1;         // after the last job ended by itself
};

inline constexpr char kReadyLine[] = "ready\n";
// Starts the line when another process writes to the store.
inline constexpr char kLockedPrefix[] = "locked: ";
inline constexpr char kDaemonLog[] = "daemon.log";

// The daemon's whole life; returns its exit status. SIGTERM, SIGINT and SIGHUP end all jobs
// after their epoch in progress; the targets run on. Changes stderr to the log and blocks
// those signals in the whole process.
int RunDaemon(const DaemonOptions& options, const DaemonDependencies& dependencies);

}  // namespace incr

#endif  // INCR_CKPT_CLI_DAEMON_H_
