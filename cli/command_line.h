// command_line.h — what the user typed, as values. Pure; the one user of CLI11.
#ifndef INCR_CKPT_CLI_COMMAND_LINE_H_
#define INCR_CKPT_CLI_COMMAND_LINE_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cli/daemon_settings.h"
#include "store/gc_policy.h"

namespace incr {

inline constexpr double kDefaultIntervalS = 10;

struct TrackingArgs {
  double interval_s = kDefaultIntervalS;  // 0: only on request
  std::string job;
  std::string tracker;
  bool allow_unsupported = false;
  std::optional<uint32_t> precopy_rounds;  // start, run
  bool include_dontdump = false;
  bool save_file_pages = false;
  bool collapse_on_stop = false;
  DaemonSettings daemon;  // start, run
  GcPolicy gc;  // start, run
};

struct StartArgs {
  pid_t pid = 0;
  TrackingArgs tracking;
};
struct RunArgs {
  std::vector<std::string> command;
  TrackingArgs tracking;
};
struct CheckpointArgs {
  std::string target;  // pid or job
};
struct StopArgs {
  std::string target;
  bool all = false;
  bool collapse_on_stop = false;
};
struct StatusArgs {};
struct ListArgs {
  std::string job;
};
struct ShowArgs {
  std::string job;
  std::string epoch;  // number or "latest"
};
struct DiffArgs {
  std::string job;
  std::string before, after;  // number or "latest"
  std::string bytes;          // "": no hex view
  uint32_t max_lines = 64;    // of it
};
struct RestoreArgs {
  std::string job;
  std::string epoch;
  bool detach = false;
  bool track = false;  // --interval was given
  TrackingArgs tracking;
};
struct GcArgs {
  GcPolicy policy;
  std::string job;
  bool dry_run = false;
  std::string recompress;  // "" or "zstd"
};
struct DoctorArgs {};
struct VerifyArgs {
  std::string job;
  std::string epoch;  // number, "latest", or "" for all
};
struct RepairArgs {
  bool dry_run = false;
};
struct ExportArgs {
  std::string job;
  std::vector<std::string> epochs;
  std::string file;  // "-": stdout
};
struct ImportArgs {
  std::string file;  // "-": stdin
  std::string job;
};
struct CoreArgs {
  std::string job;
  std::string epoch;  // number or "latest"
  std::string file;   // "-": stdout
};
struct DumpMemoryArgs {
  std::string job;
  std::string epoch;
  std::string range;  // "START-END", "START+LENGTH", or a mapping's name
  std::string file;
};
struct VersionArgs {};
// Nothing to do but to print: help, or a usage error.
struct PrintArgs {
  std::string text;
  bool is_error = false;
};

using CommandArgs = std::variant<StartArgs, RunArgs, CheckpointArgs, StopArgs, StatusArgs, ListArgs,
                                 ShowArgs, DiffArgs, RestoreArgs, GcArgs, DoctorArgs, VerifyArgs, RepairArgs,
                                 ExportArgs, ImportArgs, CoreArgs, DumpMemoryArgs, VersionArgs, PrintArgs>;

struct CommandLine {
  std::string store;  // --store, may be empty
  bool json = false;
  CommandArgs command;
};

// `arguments` without the program's name.
CommandLine ParseCommandLine(const std::vector<std::string>& arguments);

}  // namespace incr

#endif  // INCR_CKPT_CLI_COMMAND_LINE_H_
