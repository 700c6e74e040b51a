#include "cli/e2e/harness.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

constexpr int kStrangerPatienceMs = 60'000;

int StatusOf(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

void Redirect(int fd, const std::string& path, int flags) {
  const int file = open(path.c_str(), flags, 0600);
  if (file < 0) _exit(126);
  if (file != fd) {
    dup2(file, fd);
    close(file);
  }
}

}  // namespace

std::string CkptBinary() { return fs::absolute("cli/incr-ckpt").string(); }

std::string WantedTracker() {
  const char* name = std::getenv("INCR_TRACKER");
  return name == nullptr ? "" : name;
}

int EpochsToTake(int usual) {
  const char* text = std::getenv("INCR_E2E_EPOCHS");
  return text == nullptr ? usual : std::atoi(text);
}

bool ParseJson(const std::string& text, google::protobuf::Message* message) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  return google::protobuf::util::JsonStringToMessage(text, message, options).ok();
}

std::string ReadAll(const std::string& path) {
  auto text = ReadWholeFile(path);
  return text.ok() ? *text : "";
}

bool Await(const std::function<bool()>& condition, int timeout_ms) {
  const Stopwatch watch;
  while (!condition()) {
    if (watch.elapsed_us() > int64_t{timeout_ms} * 1000) return false;
    usleep(2'000);
  }
  return true;
}

int WaitFor(pid_t pid, int timeout_s) {
  int status = 0;
  const bool ended = Await([&] { return waitpid(pid, &status, WNOHANG) != 0; }, timeout_s * 1000);
  return ended ? StatusOf(status) : -1;
}

void KillAndReap(pid_t pid) {
  if (pid <= 0) return;
  kill(pid, SIGKILL);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Program Program::Start(const std::vector<std::string>& argv, const Stdio& stdio) {
  std::vector<std::string> strings = argv;
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  Program program;
  program.pid_ = fork();
  if (program.pid_ == 0) {
    Redirect(0, stdio.in, O_RDONLY);
    Redirect(1, stdio.out.empty() ? "/dev/null" : stdio.out, O_WRONLY | O_CREAT);
    Redirect(2, stdio.err.empty() ? "/dev/null" : stdio.err, O_WRONLY | O_CREAT);
    // Only what the program opens itself.
    close_range(3, ~0u, 0);
    execv(pointers[0], pointers.data());
    _exit(127);
  }
  return program;
}

Program::Program(Program&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
Program& Program::operator=(Program&& other) noexcept {
  if (this != &other) {
    Kill();
    pid_ = std::exchange(other.pid_, 0);
  }
  return *this;
}
Program::~Program() { Kill(); }

void Program::Kill() { KillAndReap(std::exchange(pid_, 0)); }

int Program::Wait(int timeout_s) {
  const int status = WaitFor(pid_, timeout_s);
  if (status >= 0) pid_ = 0;
  return status;
}

bool Program::Running() const {
  siginfo_t info{};
  return pid_ != 0 && waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

EndToEnd::EndToEnd() {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  folder_ = absl::StrCat("/tmp/incr-e2e-", getpid(), "-", MonotonicMicros());
  fs::create_directories(folder_);
  store_ = folder_ + "/store";
  progress_ = folder_ + "/progress";
}

EndToEnd::~EndToEnd() {
  Ckpt({"stop", "--all"});
  fs::remove_all(folder_);
}

Program EndToEnd::StartCkpt(std::vector<std::string> arguments, const Stdio& stdio) {
  arguments.insert(arguments.begin(), {CkptBinary(), "--store", store_});
  return Program::Start(arguments, stdio);
}

CommandResult EndToEnd::Ckpt(std::vector<std::string> arguments, int timeout_s) {
  static int count = 0;
  const std::string base = absl::StrCat(folder_, "/command-", ++count);
  Program program = StartCkpt(std::move(arguments), {"/dev/null", base + ".out", base + ".err"});
  CommandResult result;
  result.status = program.Wait(timeout_s);
  result.out = ReadAll(base + ".out");
  result.err = ReadAll(base + ".err");
  if (result.status == -1) result.err += "(timed out)";
  return result;
}

int64_t EndToEnd::Progress() const {
  const std::string text = ReadAll(progress_);
  if (text.find("BAD") != std::string::npos) return -1;
  return atoll(text.c_str());
}

void EndToEnd::ExpectProgress(int steps, const std::string& when) {
  const int64_t before = Progress();
  ASSERT_NE(before, -1) << when << ": " << ReadAll(progress_);
  int64_t now = before;
  EXPECT_TRUE(Await([&] {
    now = Progress();
    // The first report after ClearProgress is where it is, not how far it came.
    return now == -1 || now >= before + steps;
  })) << when << ": no progress beyond step " << before;
  ASSERT_NE(now, -1) << when << ": " << ReadAll(progress_);
}

void EndToEnd::ClearProgress() {
  auto file = OpenFile(progress_, O_WRONLY);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(PwriteExactly(file->get(), "00000000000000000000", 20, 0, progress_).ok());
}

pid_t EndToEnd::RestoreAndExpectProgress(uint64_t epoch, int steps,
                                         const std::vector<std::string>& more) {
  ClearProgress();
  std::vector<std::string> arguments = {"--json", "restore", "--epoch", absl::StrCat(epoch),
                                        "--detach"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  CommandResult result;
  // Pids wrap around within minutes where several tests run: a stranger may have ours for a while.
  (void)Await([&] {
    result = Ckpt(arguments);
    return result.err.find(" is taken by ") == std::string::npos;
  }, kStrangerPatienceMs);
  EXPECT_EQ(result.status, 0) << "restore of epoch " << epoch << ": " << result.err;
  if (result.status != 0) return 0;
  pb::EpochReply reply;  // job, epoch, pid
  EXPECT_TRUE(ParseJson(result.out, &reply)) << result.out;
  const std::string when = absl::StrCat("after the restore of epoch ", epoch);
  EXPECT_TRUE(Await([&] { return Progress() != 0; })) << when << ": it does not run";
  ExpectProgress(steps, when);
  return reply.pid();
}

}  // namespace incr::e2e
