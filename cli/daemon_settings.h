// daemon_settings.h — how a daemon keeps its store: given by the command that starts it, and then not changed.
// Pure.
#ifndef INCR_CKPT_CLI_DAEMON_SETTINGS_H_
#define INCR_CKPT_CLI_DAEMON_SETTINGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace incr {

struct DaemonSettings {
  uint64_t memory_limit = 0;  // bytes; 0: the store's defaults
  bool paranoid = false;
  bool operator==(const DaemonSettings&) const = default;
};

// As arguments of `internal-daemon`, and back. None: not such arguments.
std::vector<std::string> ToArguments(const DaemonSettings& settings);
std::optional<DaemonSettings> FromArguments(const std::vector<std::string>& arguments);

// OK if a daemon that runs with `running` is as a command `asked` for; what it did not ask for may be as it is.
absl::Status CheckAsAsked(const DaemonSettings& running, const DaemonSettings& asked);

// "512M", "2GiB", "67108864": powers of 1024. None: no size.
std::optional<uint64_t> ParseSize(const std::string& text);

}  // namespace incr

#endif  // INCR_CKPT_CLI_DAEMON_SETTINGS_H_
