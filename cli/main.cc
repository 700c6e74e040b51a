// incr-ckpt: the commands, and the two lives that the binary leads besides (daemon, agent).
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/agent.h"
#include "cli/api.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/daemon.h"
#include "cli/daemon_settings.h"
#include "cli/exit_status.h"
#include "cli/real_sessions.h"
#include "cli/version.h"
#include "store/store.h"

namespace incr {
namespace {

// The binary that runs, even if the file has been replaced since.
constexpr char kSelf[] = "/proc/self/exe";

int DaemonMain(const std::string& store, const DaemonSettings& settings, int ready_fd) {
  ::prctl(PR_SET_NAME, "incr-ckpt");
  DaemonDependencies dependencies;
  dependencies.open_store =
      [&](const std::string& directory) -> absl::StatusOr<std::unique_ptr<Store>> {
    StoreOptions options;
    options.create_if_missing = true;
    options.paranoid = settings.paranoid;
    if (settings.memory_limit != 0) {
      INCR_RETURN_IF_ERROR(LimitMemory(settings.memory_limit, &options));
    }
    return Store::Open(directory, options);
  };
  dependencies.make_sessions = [](Store* opened) {
    return NewSessionFactory(opened, {kSelf, "internal-agent"});
  };
  DaemonOptions options;
  options.store = store;
  options.settings = settings;
  options.ready_fd = ready_fd;
  return RunDaemon(options, dependencies);
}

int AgentMain(int socket) {
  // The daemon keeps some signals for a thread of its own; the agent ignores or takes them.
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  return RunAgent(socket);
}

absl::StatusOr<int> PrintVersion(const CommandContext& context) {
  pb::VersionReply reply;
  reply.set_version(kVersion);
  reply.set_api(kApiVersion);
  INCR_RETURN_IF_ERROR(Print(context, reply, absl::StrCat("incr-ckpt ", kVersion, "\n")));
  return kExitOk;
}

absl::StatusOr<int> PrintText(const PrintArgs& args) {
  if (args.is_error) {
    PrintError(args.text);
    return kExitUsage;
  }
  INCR_RETURN_IF_ERROR(
      WriteExactly(STDOUT_FILENO, args.text.data(), args.text.size(), "stdout"));
  return kExitOk;
}

struct Dispatch {
  const CommandContext& context;
  absl::StatusOr<int> operator()(const StartArgs& args) const { return RunStart(context, args); }
  absl::StatusOr<int> operator()(const RunArgs& args) const { return RunRun(context, args); }
  absl::StatusOr<int> operator()(const CheckpointArgs& args) const {
    return RunCheckpoint(context, args);
  }
  absl::StatusOr<int> operator()(const StopArgs& args) const { return RunStop(context, args); }
  absl::StatusOr<int> operator()(const StatusArgs& args) const { return RunStatus(context, args); }
  absl::StatusOr<int> operator()(const ListArgs& args) const { return RunList(context, args); }
  absl::StatusOr<int> operator()(const ShowArgs& args) const { return RunShow(context, args); }
  absl::StatusOr<int> operator()(const DiffArgs& args) const { return RunDiff(context, args); }
  absl::StatusOr<int> operator()(const RestoreArgs& args) const {
    return RunRestore(context, args);
  }
  absl::StatusOr<int> operator()(const GcArgs& args) const { return RunGc(context, args); }
  absl::StatusOr<int> operator()(const DoctorArgs& args) const { return RunDoctor(context, args); }
  absl::StatusOr<int> operator()(const VerifyArgs& args) const { return RunVerify(context, args); }
  absl::StatusOr<int> operator()(const RepairArgs& args) const { return RunRepair(context, args); }
  absl::StatusOr<int> operator()(const ExportArgs& args) const { return RunExport(context, args); }
  absl::StatusOr<int> operator()(const ImportArgs& args) const { return RunImport(context, args); }
  absl::StatusOr<int> operator()(const CoreArgs& args) const { return RunCore(context, args); }
  absl::StatusOr<int> operator()(const DumpMemoryArgs& args) const { return RunDumpMemory(context, args); }
  absl::StatusOr<int> operator()(const VersionArgs&) const { return PrintVersion(context); }
  absl::StatusOr<int> operator()(const PrintArgs& args) const { return PrintText(args); }
};

int CommandMain(const std::vector<std::string>& arguments) {
  // A caller that ignores SIGCHLD would have the kernel reap our children behind our back.
  ::signal(SIGCHLD, SIG_DFL);
  const CommandLine line = ParseCommandLine(arguments);
  const CommandContext context{line.store, line.json};
  const absl::StatusOr<int> exit_status = std::visit(Dispatch{context}, line.command);
  if (exit_status.ok()) return *exit_status;
  PrintError(std::string(exit_status.status().message()));
  return ExitStatusFor(exit_status.status());
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  // A caller may have closed some of 0 to 2: what we open next (a store's lock, say) must not
  // become somebody's stderr.
  for (int null = 0; null <= 2;) {
    null = ::open("/dev/null", O_RDWR);
    if (null < 0) break;
    if (null > 2) ::close(null);
  }
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  int fd = -1;
  if (arguments.size() >= 3 && arguments[0] == "internal-daemon" &&
      absl::SimpleAtoi(arguments.back(), &fd)) {
    const auto settings = incr::FromArguments({arguments.begin() + 2, arguments.end() - 1});
    if (settings.has_value()) return incr::DaemonMain(arguments[1], *settings, fd);
  }
  if (arguments.size() == 2 && arguments[0] == "internal-agent" &&
      absl::SimpleAtoi(arguments[1], &fd)) {
    return incr::AgentMain(fd);
  }
  return incr::CommandMain(arguments);
}
