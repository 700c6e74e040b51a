#include "restore/round_trip.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/capture_files.h"
#include "checkpoint/capture_process.h"
#include "process/frozen_process.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "process/remote_memory.h"
#include "process/thread_state.h"

namespace incr {
namespace {

std::string TargetPath(const std::string& name) {
  if (name[0] == '/') return name;
  const char* root = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  return absl::StrCat(root != nullptr ? root : ".", "/", workspace != nullptr ? workspace : "",
                      "/testdata/targets/", name);
}

// All pages that a restore needs, found through /proc/<pid>/pagemap: present (63) or swapped (62),
// and for private files not the file's own (61).
absl::Status ReadAllPages(const ProcessHandle& target, const MemoryMap& map,
                          std::map<uint64_t, std::string>* pages) {
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(target, false));
  INCR_ASSIGN_OR_RETURN(ScopedFd pagemap, OpenFile(target.ProcPath("pagemap"), O_RDONLY));
  for (const MemoryMapping& mapping : map) {
    const MappingClass kind = ClassifyMapping(mapping);
    if (kind == MappingClass::kSharedReadOnly || kind == MappingClass::kKernelOwned) continue;
    constexpr uint64_t kChunk = 1 << 18;
    std::vector<uint64_t> bits(kChunk);
    for (uint64_t page = mapping.start / kPageSize; page < mapping.end / kPageSize;
         page += kChunk) {
      const uint64_t count = std::min(kChunk, mapping.end / kPageSize - page);
      INCR_RETURN_IF_ERROR(PreadExactly(pagemap.get(), bits.data(), count * 8, page * 8, "pagemap"));
      for (uint64_t i = 0; i < count; ++i) {
        const bool populated = (bits[i] >> 62) != 0;
        const bool of_file = (bits[i] >> 61) & 1;
        const bool wanted = kind == MappingClass::kSharedWritable ||
                            (populated && (kind == MappingClass::kPrivateAnonymous || !of_file));
        if (!wanted) continue;
        std::string bytes(kPageSize, '\0');
        // Beyond the end of a shared file there is nothing.
        if (!memory.Read(RemoteAddr((page + i) * kPageSize), bytes.data(), kPageSize).ok()) continue;
        (*pages)[page + i] = std::move(bytes);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

RoundTrip::RoundTrip() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  char name[] = "/tmp/incr-ckpt-restore-XXXXXX";
  directory_ = ::mkdtemp(name);
}

RoundTrip::~RoundTrip() {
  if (pid_ != 0) Kill();
  std::filesystem::remove_all(directory_);
}

std::string RoundTrip::output() const {
  auto text = ReadWholeFile(directory_ + "/output");
  return text.ok() ? *text : "";
}

absl::Status RoundTrip::Start(std::vector<std::string> arguments, const std::string& ready) {
  arguments[0] = TargetPath(arguments[0]);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string path = directory_ + "/output";
  pid_ = ::fork();
  if (pid_ == 0) {
    const int log = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    ::dup2(log, 1);
    ::dup2(log, 2);
    ::close_range(3, ~0u, 0);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return ready.empty() ? absl::OkStatus() : WaitForLine(ready);
}

absl::StatusOr<uint64_t> RoundTrip::Checkpoint(const std::function<void()>& while_frozen) {
  for (;;) {
    auto epoch = CheckpointOnce(while_frozen);
    // Targets look at /proc/self now and then, and such a file is not restorable.
    if (!absl::IsUnimplemented(epoch.status()) ||
        !absl::StrContains(epoch.status().message(), "(/proc/")) {
      return epoch;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

absl::StatusOr<uint64_t> RoundTrip::CheckpointOnce(
    const std::function<void()>& while_frozen) {
  INCR_ASSIGN_OR_RETURN(ProcessHandle target, ProcessHandle::Open(pid_));
  INCR_ASSIGN_OR_RETURN(FrozenProcess frozen, FrozenProcess::Freeze(target));
  while_frozen();
  INCR_ASSIGN_OR_RETURN(FrozenState state, CaptureOuterState(frozen));
  INCR_RETURN_IF_ERROR(CaptureInjectedState(frozen, InjectionPlan(), &state));
  INCR_RETURN_IF_ERROR(CapturePendingSignals(frozen, &state));
  MemoryStore::Epoch epoch;
  pb::Image image;
  pb::Process* process = image.add_processes();
  const int64_t moment_us = WallMicros();
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(target));
  INCR_ASSIGN_OR_RETURN(MemoryMap flags, ReadSmaps(target));
  INCR_ASSIGN_OR_RETURN(const LastingState lasting, CaptureLasting(target));
  INCR_RETURN_IF_ERROR(CaptureProcess(target, state, lasting, false, process, &image));
  if (frozen.was_group_stopped()) RecordGroupStop(process);
  INCR_RETURN_IF_ERROR(CaptureFiles(target, false, process, &image));
  INCR_RETURN_IF_ERROR(CaptureMappings(target, map, flags, moment_us, false, process, &image));
  INCR_RETURN_IF_ERROR(ReadAllPages(target, map, &epoch.pages));
  epoch.image = image.SerializeAsString();
  INCR_RETURN_IF_ERROR(std::move(frozen).Thaw());
  return store_.Add(std::move(epoch));
}

void RoundTrip::Signal(int signal) const { ::kill(pid_, signal); }

void RoundTrip::Kill() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

absl::StatusOr<std::unique_ptr<RestoredProcess>> RoundTrip::RestoreStopped(
    uint64_t epoch, const RestoreOptions& options) {
  return RestoreEpoch(store_, "job", epoch, options);
}

absl::Status RoundTrip::Restore(uint64_t epoch, const RestoreOptions& options) {
  seen_ = output().size();
  INCR_ASSIGN_OR_RETURN(auto restored, RestoreStopped(epoch, options));
  INCR_RETURN_IF_ERROR(restored->Release());
  pid_ = restored->pid();
  return absl::OkStatus();
}

absl::Status RoundTrip::WaitForLine(const std::string& text, int seconds) {
  const int64_t deadline_us = MonotonicMicros() + seconds * 1'000'000;
  while (MonotonicMicros() < deadline_us) {
    const std::string all = output();
    const size_t at = seen_ == 0 && absl::StartsWith(all, text)
                          ? 0
                          : all.find("\n" + text, seen_ == 0 ? 0 : seen_ - 1);
    if (at != std::string::npos) {
      seen_ = all.find('\n', at + 1);
      if (seen_ == std::string::npos) seen_ = all.size();
      return absl::OkStatus();
    }
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = 0;
      return absl::InternalError(absl::StrCat("the target ended with wait status ", status, ":\n",
                                              all.substr(all.size() > 2000 ? all.size() - 2000 : 0)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return absl::DeadlineExceededError(absl::StrCat("no \"", text, "\" in:\n", output()));
}

int RoundTrip::WaitForExit(int seconds) {
  const int64_t deadline_us = MonotonicMicros() + seconds * 1'000'000;
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) != pid_) {
    if (MonotonicMicros() > deadline_us) {
      Kill();
      return -1;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace incr
