#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "cli/check_target.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/store_location.h"
#include "process/process_handle.h"

namespace incr {

absl::StatusOr<std::string> StoreOf(const CommandContext& context) {
  return LocateStore(context.store_option, ThisProcessEnvironment());
}

absl::Status Print(const CommandContext& context, const google::protobuf::Message& reply,
                   const std::string& text) {
  const std::string out = context.json ? ToPrettyJson(reply) : text;
  return WriteExactly(STDOUT_FILENO, out.data(), out.size(), "stdout");
}

absl::Status PrintBeside(const std::string& file, const CommandContext& context, const google::protobuf::Message& reply,
                         const std::string& text) {
  if (file != "-") return Print(context, reply, text);
  const std::string line = context.json ? ToJson(reply) + "\n" : absl::StrCat("incr-ckpt: ", text);
  (void)WriteExactly(STDERR_FILENO, line.data(), line.size(), "stderr");
  return absl::OkStatus();
}

void PrintError(const std::string& line) {
  const std::string text = absl::StrCat("incr-ckpt: ", CleanText(line), "\n");
  (void)WriteExactly(STDERR_FILENO, text.data(), text.size(), "stderr");
}

void PrintWarnings(const google::protobuf::RepeatedPtrField<std::string>& warnings) {
  for (const std::string& warning : warnings) PrintError(absl::StrCat("warning: ", warning));
}

absl::StatusOr<DaemonClient> ClientOf(const std::string& store, const DaemonSettings& settings) {
  struct stat stat;
  if (::stat(store.c_str(), &stat) != 0 && errno == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat("there is no store at ", store, " (start and run make one)"));
  }
  // The very binary that runs, even if the file has been replaced since.
  std::vector<std::string> spawn = {"/proc/self/exe", "internal-daemon", store};
  for (std::string& argument : ToArguments(settings)) spawn.push_back(std::move(argument));
  return DaemonClient::ForStore(store, std::move(spawn));
}

absl::StatusOr<DaemonClient> ClientWithDaemon(const std::string& store,
                                              const DaemonSettings& settings) {
  INCR_ASSIGN_OR_RETURN(const bool made, MakeStoreDirectory(store));
  // Only an empty directory goes: one that has become a store stays.
  absl::Cleanup undo = [&] { if (made) ::rmdir(store.c_str()); };
  INCR_ASSIGN_OR_RETURN(DaemonClient client, ClientOf(store, settings));
  INCR_RETURN_IF_ERROR(client.EnsureDaemon());
  std::move(undo).Cancel();
  return client;
}

absl::Status CheckMayTrack(pid_t pid) {
  INCR_ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(pid));
  return CheckTarget(process);
}

std::string CommandOf(pid_t pid) {
  const auto process = ProcessHandle::Open(pid);
  if (!process.ok()) return "";
  const auto facts = ReadProcessFacts(*process);
  return facts.ok() ? CleanText(facts->comm) : "";
}

Progress::Progress(std::string what) : what_(std::move(what)), start_us_(MonotonicMicros()) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::Tick() {
  const double seconds = (MonotonicMicros() - start_us_) / 1e6;
  if (seconds < 1 || !::isatty(STDERR_FILENO)) return;
  shown_ = true;
  std::fputs(absl::StrFormat("\r\033[K%s: %.0f s", what_, seconds).c_str(), stderr);
}

}  // namespace incr
