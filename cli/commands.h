// commands.h — one function per command: does it, prints its result to stdout, returns the
// exit status. An error comes back for main() to print as one line on stderr.
#ifndef INCR_CKPT_CLI_COMMANDS_H_
#define INCR_CKPT_CLI_COMMANDS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/command_line.h"
#include "cli/daemon_client.h"
#include "google/protobuf/message.h"

namespace incr {

struct CommandContext {
  std::string store_option;  // --store
  bool json = false;
};

absl::StatusOr<int> RunStart(const CommandContext& context, const StartArgs& args);
absl::StatusOr<int> RunRun(const CommandContext& context, const RunArgs& args);
absl::StatusOr<int> RunCheckpoint(const CommandContext& context, const CheckpointArgs& args);
absl::StatusOr<int> RunStop(const CommandContext& context, const StopArgs& args);
absl::StatusOr<int> RunStatus(const CommandContext& context, const StatusArgs& args);
absl::StatusOr<int> RunList(const CommandContext& context, const ListArgs& args);
absl::StatusOr<int> RunShow(const CommandContext& context, const ShowArgs& args);
absl::StatusOr<int> RunDiff(const CommandContext& context, const DiffArgs& args);
absl::StatusOr<int> RunRestore(const CommandContext& context, const RestoreArgs& args);
absl::StatusOr<int> RunGc(const CommandContext& context, const GcArgs& args);
absl::StatusOr<int> RunDoctor(const CommandContext& context, const DoctorArgs& args);
absl::StatusOr<int> RunVerify(const CommandContext& context, const VerifyArgs& args);
absl::StatusOr<int> RunRepair(const CommandContext& context, const RepairArgs& args);
absl::StatusOr<int> RunExport(const CommandContext& context, const ExportArgs& args);
absl::StatusOr<int> RunImport(const CommandContext& context, const ImportArgs& args);
absl::StatusOr<int> RunCore(const CommandContext& context, const CoreArgs& args);
absl::StatusOr<int> RunDumpMemory(const CommandContext& context, const DumpMemoryArgs& args);

// What they share (command_support.cc).

absl::StatusOr<std::string> StoreOf(const CommandContext& context);

// To stdout: `reply` as JSON, or `text`.
absl::Status Print(const CommandContext& context, const google::protobuf::Message& reply,
                   const std::string& text);

// The same for a command that wrote `file`: to stderr, as one line, if that was "-", since stdout is the file then.
absl::Status PrintBeside(const std::string& file, const CommandContext& context, const google::protobuf::Message& reply,
                         const std::string& text);

// One line to stderr, after "incr-ckpt: ".
void PrintError(const std::string& line);
void PrintWarnings(const google::protobuf::RepeatedPtrField<std::string>& warnings);

// The daemon of `store`, which is there. It is not started by this; `settings` are for when it is.
absl::StatusOr<DaemonClient> ClientOf(const std::string& store,
                                      const DaemonSettings& settings = DaemonSettings());

// For start and run: makes the directory if need be, and starts the daemon. On an error
// nothing is left behind.
absl::StatusOr<DaemonClient> ClientWithDaemon(
    const std::string& store, const DaemonSettings& settings = DaemonSettings());

// OK, or one sentence: no such process, a kernel thread, ourselves, traced, another user's...
absl::Status CheckMayTrack(pid_t pid);

// "process 71 (redis-server)" -> for messages; "" if it is gone.
std::string CommandOf(pid_t pid);

// For keep_waiting: says on a terminal's stderr what a long first epoch is at.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();  // Clears the line.
  void Tick();

 private:
  const std::string what_;
  const int64_t start_us_;
  bool shown_ = false;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_COMMANDS_H_
