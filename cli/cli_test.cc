// The shipped binary, as a shell sees it: exit statuses, one line on stderr, clean stdout, and
// nothing changed by what is refused.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "proto/control.pb.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

struct Result {
  int status = -1;
  std::string out, err;
};

std::ostream& operator<<(std::ostream& stream, const Result& result) {
  return stream << "status " << result.status << "\nout: " << result.out << "\nerr: " << result.err;
}

// A child with nothing of ours open, killed and reaped at the end.
class Child {
 public:
  Child(const std::function<void()>& body, const std::string& out, const std::string& err) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, 0);
    const auto redirect = [&](const std::string& path, int fd) {
      ::dup2(path.empty() ? null : ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600), fd);
    };
    redirect(out, 1);
    redirect(err, 2);
    ::syscall(SYS_close_range, 3, ~0u, 0);
    body();
    ::_exit(127);
  }
  ~Child() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    Wait();
  }
  Child(const Child&) = delete;
  pid_t pid() const { return pid_; }
  bool alive() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }
  int Wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

void Exec(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
}

// "" if it is not there yet.
std::string ReadAll(const std::string& path) {
  auto text = ReadWholeFile(path);
  return text.ok() ? *std::move(text) : "";
}

bool Await(const std::function<bool()>& condition) {
  const Stopwatch waited;
  while (!condition()) {
    if (waited.elapsed_us() > 10'000'000) return false;
    ::usleep(2'000);
  }
  return true;
}

class CliTest : public ::testing::Test {
 protected:
  CliTest() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::string pattern = "/tmp/incr-cli-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    store_ = folder_ + "/store";
    binary_ = fs::absolute("cli/incr-ckpt").string();
  }
  ~CliTest() override {
    if (fs::exists(store_)) Ckpt({"stop", "--all"});
    fs::remove_all(folder_);
  }

  std::vector<std::string> Command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {binary_, "--store", store_});
    return arguments;
  }
  Result Ckpt(const std::vector<std::string>& arguments) {
    return RunCommand([&] { Exec(Command(arguments)); });
  }
  Result RunCommand(const std::function<void()>& body) {
    Result result;
    const std::string out = folder_ + "/out", err = folder_ + "/err";
    result.status = Child(body, out, err).Wait();
    result.out = ReadAll(out);
    result.err = ReadAll(err);
    return result;
  }
  static Child Sleeper() {
    return Child([] { Exec({"/bin/sleep", "1000"}); }, "", "");
  }
  template <typename Reply>
  Reply Json(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const Result result = Ckpt(arguments);
    EXPECT_EQ(result.status, 0) << result;
    Reply reply;
    EXPECT_TRUE(FromJson(result.out, &reply).ok()) << result;
    return reply;
  }

  // One line, ours, nothing on stdout, no store made.
  void ExpectRefused(const Result& result, int status, const std::string& part) {
    EXPECT_EQ(result.status, status) << result;
    EXPECT_EQ(result.out, "");
    EXPECT_TRUE(absl::StartsWith(result.err, "incr-ckpt: ")) << result;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result;
    EXPECT_TRUE(absl::StrContains(result.err, part)) << result << "\nlacks: " << part;
  }
  void ExpectNoTrace() { EXPECT_FALSE(fs::exists(store_)); }

  std::string folder_, store_, binary_;
};

// ---- what is refused, each by its own words ----

TEST_F(CliTest, WrongUsage) {
  ExpectRefused(Ckpt({}), kExitUsage, "no command");
  ExpectRefused(Ckpt({"frobnicate"}), kExitUsage, "frobnicate");
  ExpectRefused(Ckpt({"start"}), kExitUsage, "pid");
  ExpectRefused(Ckpt({"start", "abc"}), kExitUsage, "\"abc\" is no pid");
  ExpectRefused(Ckpt({"start", "--interval", "x", "1"}), kExitUsage, "interval");
  ExpectRefused(Ckpt({"start", "--job", "a/b", "1"}), kExitUsage, "a/b");
  ExpectRefused(Ckpt({"run"}), kExitUsage, "run what");
  ExpectRefused(Ckpt({"restore"}), kExitUsage, "--epoch");
  ExpectNoTrace();
}

TEST_F(CliTest, APidThatIsNotThere) {
  pid_t gone;
  {
    Child child([] { ::_exit(0); }, "", "");
    gone = child.pid();
  }
  ExpectRefused(Ckpt({"start", absl::StrCat(gone)}), kExitNotFound, absl::StrCat(gone));
  ExpectNoTrace();
}

TEST_F(CliTest, AZombie) {
  Child child([] { ::_exit(0); }, "", "");
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, child.pid(), &info, WEXITED | WNOWAIT), 0);
  const Result result = Ckpt({"start", absl::StrCat(child.pid())});
  EXPECT_TRUE(result.status == kExitRefused || result.status == kExitNotFound) << result;
  ExpectRefused(result, result.status, absl::StrCat(child.pid()));
  ExpectNoTrace();
}

TEST_F(CliTest, AKernelThread) {
  const auto comm = ReadWholeFile("/proc/2/comm");
  if (!comm.ok() || *comm != "kthreadd\n") GTEST_SKIP() << "no kernel thread has pid 2 here";
  ExpectRefused(Ckpt({"start", "2"}), kExitRefused, "kernel thread");
  ExpectNoTrace();
}

TEST_F(CliTest, Itself) {
  const Result itself = RunCommand([&] { Exec(Command({"start", absl::StrCat(::getpid())})); });
  ExpectRefused(itself, kExitRefused, "itself");
  ExpectRefused(Ckpt({"start", absl::StrCat(::getpid())}), kExitRefused, "parent");
  ExpectNoTrace();
}

TEST_F(CliTest, ItsDaemonAndItsAgent) {
  const Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", absl::StrCat(target.pid())}).status, 0);
  const uint32_t daemon = Json<pb::StatusReply>({"status"}).daemon_pid();
  ExpectRefused(Ckpt({"start", absl::StrCat(daemon)}), kExitRefused, "incr-ckpt");
  for (const fs::directory_entry& task :
       fs::directory_iterator(absl::StrCat("/proc/", daemon, "/task"))) {
    const std::string children = ReadAll((task.path() / "children").string());
    uint32_t pid = 0;
    if (!absl::SimpleAtoi(children, &pid)) continue;
    ExpectRefused(Ckpt({"start", absl::StrCat(pid)}), kExitRefused, "incr-ckpt");
  }
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).jobs_size(), 1);
}

TEST_F(CliTest, AProcessThatSomeoneElseTraces) {
  const Child target = Sleeper();
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, target.pid(), 0, 0), 0);
  ExpectRefused(Ckpt({"start", absl::StrCat(target.pid())}), kExitRefused, "traced");
  ::ptrace(PTRACE_INTERRUPT, target.pid(), 0, 0);
  ::waitpid(target.pid(), nullptr, __WALL);
  ::ptrace(PTRACE_DETACH, target.pid(), 0, 0);
  EXPECT_TRUE(target.alive());
  ExpectNoTrace();
}

TEST_F(CliTest, AnotherUsersProcess) {
  const Child target(
      [] {
        if (::setuid(65534) == 0) Exec({"/bin/sleep", "1000"});
      },
      "", "");
  ASSERT_TRUE(Await([&] {
    return absl::StrContains(ReadAll(absl::StrCat("/proc/", target.pid(), "/status")),
                             "Uid:\t65534");
  }));
  ExpectRefused(Ckpt({"start", absl::StrCat(target.pid())}), kExitRefused, "user");
  ExpectNoTrace();
}

TEST_F(CliTest, AStoreThatIsNotThereOrIsNone) {
  const Child target = Sleeper();
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"list"}, {"show", "--epoch", "1"}, {"restore", "--epoch", "latest"},
           {"checkpoint", "web"}, {"stop", "web"}, {"stop", "--all"}}) {
    ExpectRefused(Ckpt(command), kExitNotFound, store_);
    ExpectNoTrace();
  }
  // A script may look before the first start has made it.
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).daemon_pid(), 0u);
  ExpectNoTrace();
  fs::create_directory(store_);
  ASSERT_TRUE(WriteFileDurably(store_ + "/a-users-file", "precious", 0600).ok());
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"start", absl::StrCat(target.pid())}, {"status"}, {"list"}, {"checkpoint", "web"},
           {"show", "--epoch", "1"}, {"restore", "--epoch", "latest"}, {"stop", "--all"}}) {
    const Result result = Ckpt(command);
    EXPECT_NE(result.status, 0) << command[0];
    ExpectRefused(result, result.status, store_);
  }
  const Result run = Ckpt({"run", "--", "touch", folder_ + "/ran"});
  ExpectRefused(run, kExitNotTracked, store_);
  EXPECT_FALSE(fs::exists(folder_ + "/ran"));
  EXPECT_EQ(std::distance(fs::directory_iterator(store_), fs::directory_iterator()), 1)
      << "something was put into a directory that is no store";
  fs::remove_all(store_);
  ASSERT_TRUE(WriteFileDurably(store_, "a file", 0600).ok());
  const Result start = Ckpt({"start", absl::StrCat(target.pid())});
  ExpectRefused(start, start.status, store_);
  EXPECT_EQ(ReadAll(store_), "a file");
  fs::remove(store_);
}

TEST_F(CliTest, StatusNeverFailsWhileTheFirstStartMakesTheStore) {
  const Child target = Sleeper();
  Child start([&] { Exec(Command({"start", "--interval", "0", absl::StrCat(target.pid())})); }, "",
              "");
  EXPECT_TRUE(Await([&] {
    const auto status = Json<pb::StatusReply>({"status"});
    return status.jobs_size() == 1 && status.jobs(0).state() == "tracking";
  }));
  EXPECT_EQ(start.Wait(), 0);
}

TEST_F(CliTest, WhatIsNotThereInAStore) {
  const Child target = Sleeper();
  const std::string pid = absl::StrCat(target.pid());
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", pid}).status, 0);
  ExpectRefused(Ckpt({"restore", "--epoch", "7"}), kExitNotFound, "7");
  ExpectRefused(Ckpt({"show", "--epoch", "7"}), kExitNotFound, "7");
  ExpectRefused(Ckpt({"restore", "--epoch", "x"}), kExitUsage, "x");
  ExpectRefused(Ckpt({"diff", "1", "7"}), kExitNotFound, "7");
  ExpectRefused(Ckpt({"diff", "1", "x"}), kExitUsage, "x");
  ExpectRefused(Ckpt({"diff", "1", "1", "--bytes", "nonsense"}), kExitUsage, "nonsense");
  ExpectRefused(Ckpt({"restore", "--epoch", "1", "--job", "db"}), kExitNotFound, "web");
  ExpectRefused(Ckpt({"list", "--job", "db"}), kExitNotFound, "db");
  ExpectRefused(Ckpt({"checkpoint", "db"}), kExitNotFound, "web (pid");
  ExpectRefused(Ckpt({"stop", "1"}), kExitNotFound, "1");
  ExpectRefused(Ckpt({"start", pid}), kExitRefused, "job web");
  ExpectRefused(Ckpt({"restore", "--epoch", "1"}), kExitRefused, pid);
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 1);
  EXPECT_TRUE(target.alive());
}

TEST_F(CliTest, HowTheStoreIsKeptIsSettledByTheFirstStart) {
  const Child one = Sleeper(), two = Sleeper();
  const auto start = [&](const Child& target, std::vector<std::string> options) {
    options.insert(options.begin(), "start");
    options.insert(options.end(), {"--interval", "0", absl::StrCat(target.pid())});
    return Ckpt(options);
  };
  ASSERT_EQ(start(one, {"--memory-limit", "80M", "--paranoid"}).status, 0);
  const auto daemon = Json<pb::StatusReply>({"status"}).daemon_pid();
  std::ifstream file(absl::StrCat("/proc/", daemon, "/cmdline"));
  const std::string arguments((std::istreambuf_iterator<char>(file)), {});
  EXPECT_TRUE(absl::StrContains(arguments, std::string("memory-limit=83886080\0paranoid", 31)))
      << arguments;
  ExpectRefused(start(two, {"--memory-limit", "1G"}), kExitRefused, "--memory-limit");
  EXPECT_EQ(start(two, {"--memory-limit", "80M"}).status, 0);
  EXPECT_EQ(Ckpt({"stop", "--all"}).status, 0);
  ASSERT_EQ(start(one, {}).status, 0);
  ExpectRefused(start(two, {"--paranoid"}), kExitRefused, "--paranoid");
}

TEST_F(CliTest, SeveralJobsNeedAName) {
  const Child one = Sleeper(), two = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "one", absl::StrCat(one.pid())}).status, 0);
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "two", absl::StrCat(two.pid())}).status, 0);
  ExpectRefused(Ckpt({"restore", "--epoch", "1"}), kExitUsage, "one, two");
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 2);
  EXPECT_EQ(Json<pb::ListReply>({"list", "--job", "two"}).epochs_size(), 1);
  EXPECT_EQ(Ckpt({"stop", "one"}).out, "stopped one\n");
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).jobs_size(), 1);
  ExpectRefused(Ckpt({"start", "--job", "two", absl::StrCat(one.pid())}), kExitRefused, "two");
}

// ---- what they do ----

TEST_F(CliTest, TrackCheckpointStop) {
  const Child target = Sleeper();
  const std::string pid = absl::StrCat(target.pid());
  const Result start = Ckpt({"start", "--interval", "0", pid});
  EXPECT_EQ(start.status, 0) << start;
  EXPECT_EQ(start.out, absl::StrCat("tracking sleep (pid ", pid, ") as job sleep-", pid,
                                    ": epoch 1 durable\n"));
  EXPECT_EQ(Ckpt({"checkpoint", pid}).out, "2\n");
  EXPECT_EQ(Ckpt({"checkpoint", "sleep-" + pid}).out, "3\n");
  EXPECT_EQ(Json<pb::EpochReply>({"checkpoint", pid}).epoch(), 4u);
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 4);
  EXPECT_TRUE(absl::StrContains(Ckpt({"status"}).out, "on request"));
  EXPECT_TRUE(absl::StrContains(Ckpt({"show", "--epoch", "latest"}).out, "[stack]"));
  const Result diff = Ckpt({"diff", "1", "latest", "--bytes", "[stack]"});
  EXPECT_EQ(diff.status, 0) << diff;
  EXPECT_TRUE(absl::StrContains(diff.out, "from epoch 1 (")) << diff;
  EXPECT_TRUE(absl::StrContains(diff.out, "bytes differ in 0x")) << diff;
  EXPECT_EQ(Json<pb::DiffReply>({"diff", "3", "3"}).regions_size(), 0);
  EXPECT_EQ(Ckpt({"stop", pid}).out, absl::StrCat("stopped sleep-", pid, "\n"));
  EXPECT_TRUE(target.alive());
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).daemon_pid(), 0u);
  EXPECT_EQ(Ckpt({"stop", "--all"}).out, "nothing is tracked\n");
  ExpectRefused(Ckpt({"checkpoint", pid}), kExitNotFound, pid);
  // The same job goes on with a full epoch.
  EXPECT_EQ(Json<pb::EpochReply>({"start", "--interval", "0", pid}).epoch(), 5u);
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs(4).parent(), 0u);
}

TEST_F(CliTest, EveryFieldThatScriptsReadIsThere) {
  const Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", absl::StrCat(target.pid())}).status, 0);
  const std::string list = Ckpt({"list", "--json"}).out;
  for (const char* field :
       {"job", "epoch", "pid", "time", "pages_scanned", "pages_written", "pages_gone",
        "pages_zero", "pages_deduplicated", "pages_stored", "bytes_stored", "frozen_us",
        "total_us", "tracker"}) {
    EXPECT_TRUE(absl::StrContains(list, absl::StrCat("\"", field, "\": "))) << field << list;
  }
  EXPECT_FALSE(absl::StrContains(list, "\"pages_written\": \"")) << "a number, no string";
  const std::string show = Ckpt({"show", "--epoch", "1", "--json"}).out;
  for (const char* field : {"mappings", "threads", "files", "pid", "command_line"}) {
    EXPECT_TRUE(absl::StrContains(show, absl::StrCat("\"", field, "\": "))) << field << show;
  }
  EXPECT_TRUE(absl::StrContains(Ckpt({"status", "--json"}).out, "\"daemon_pid\": "));
  EXPECT_TRUE(absl::StrContains(Ckpt({"doctor", "--json"}).out, "\"tracker\": "));
  EXPECT_TRUE(absl::StrContains(Ckpt({"--version"}).out, "incr-ckpt "));
  EXPECT_TRUE(absl::StrContains(Ckpt({"--help"}).out, "restore"));
}

TEST_F(CliTest, TheJobEndsWithItsProcess) {
  Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "1000", absl::StrCat(target.pid())}).status, 0);
  ::kill(target.pid(), SIGKILL);
  target.Wait();
  EXPECT_TRUE(Await([&] { return Json<pb::StatusReply>({"status"}).jobs_size() == 0; }));
  EXPECT_TRUE(Await([&] { return Json<pb::StatusReply>({"status"}).daemon_pid() == 0; }));
}

TEST_F(CliTest, RunExitsWithTheCommandsStatus) {
  const Result run = Ckpt({"run", "--interval", "0", "--", "sh", "-c", "echo out; exit 7"});
  EXPECT_EQ(run.status, 7) << run;
  EXPECT_EQ(run.out, "out\n");
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(Ckpt({"run", "--", "sh", "-c", "kill -9 $$"}).status, 137);
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 2);
}

TEST_F(CliTest, RunThatCannotExecuteLeavesNoTrace) {
  ExpectRefused(Ckpt({"run", "--", "no-such-command"}), kExitNoSuchCommand, "no-such-command");
  ExpectRefused(Ckpt({"run", "--", "/etc/passwd"}), kExitNotExecutable, "/etc/passwd");
  ExpectNoTrace();
}

TEST_F(CliTest, RunThatCannotBeTrackedDoesNotRun) {
  const Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--job", "web", absl::StrCat(target.pid())}).status, 0);
  ExpectRefused(Ckpt({"run", "--job", "web", "--", "touch", folder_ + "/ran"}), kExitNotTracked,
                "web");
  ExpectRefused(Ckpt({"run", "--tracker", "magic", "--", "touch", folder_ + "/ran"}), kExitUsage,
                "magic");
  EXPECT_FALSE(fs::exists(folder_ + "/ran"));
}

TEST_F(CliTest, RunPassesSignalsOn) {
  Child run([&] { Exec(Command({"run", "--interval", "0", "--job", "r", "--", "sleep", "1000"})); },
            "", "");
  ASSERT_TRUE(Await([&] {
    return fs::exists(store_ + "/daemon.sock") &&
           Json<pb::StatusReply>({"status"}).jobs_size() == 1 &&
           Json<pb::StatusReply>({"status"}).jobs(0).state() == "tracking";
  }));
  ::kill(run.pid(), SIGTERM);
  EXPECT_EQ(run.Wait(), 128 + SIGTERM);
}

TEST_F(CliTest, RestoreInTheForegroundStandsForTheProcess) {
  Child target([&] { Exec({"/bin/sleep", "1000"}); }, "", "");
  const pid_t pid = target.pid();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", absl::StrCat(pid)}).status, 0);
  ::kill(pid, SIGKILL);
  target.Wait();
  Child restore([&] { Exec(Command({"restore", "--epoch", "latest"})); }, folder_ + "/r.out",
                folder_ + "/r.err");
  ASSERT_TRUE(Await([&] { return absl::StrContains(ReadAll(folder_ + "/r.err"), "restored"); }));
  EXPECT_EQ(ReadAll(folder_ + "/r.err"),
            absl::StrCat("incr-ckpt: restored sleep (pid ", pid, ") to epoch 1 of job sleep-", pid,
                         "\n"));
  // No other thread of it may take what the process is to have: it would die, and not the process.
  for (const auto& task : fs::directory_iterator(absl::StrCat("/proc/", restore.pid(), "/task"))) {
    if (task.path().filename() == absl::StrCat(restore.pid())) continue;
    EXPECT_TRUE(absl::StrContains(ReadAll(task.path().string() + "/status"),
                                  "SigBlk:\tfffffff"));
  }
  ::kill(restore.pid(), SIGTERM);
  EXPECT_EQ(restore.Wait(), 128 + SIGTERM);
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_EQ(ReadAll(folder_ + "/r.out"), "");
}

TEST_F(CliTest, RestoreDetachedAndTrackedAgain) {
  Child target = Sleeper();
  const pid_t pid = target.pid();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", absl::StrCat(pid)}).status, 0);
  ::kill(pid, SIGKILL);
  target.Wait();
  const auto reply =
      Json<pb::RestoreReply>({"restore", "--epoch", "1", "--detach", "--interval", "0.05"});
  EXPECT_EQ(reply.pid(), static_cast<uint32_t>(pid));
  EXPECT_EQ(reply.epoch(), 1u);
  EXPECT_TRUE(reply.tracked());
  ASSERT_TRUE(Await([&] { return Json<pb::ListReply>({"list"}).epochs_size() >= 3; }));
  const auto list = Json<pb::ListReply>({"list"});
  EXPECT_EQ(list.epochs(1).parent(), 1u);
  EXPECT_LT(list.epochs(1).pages_written(), list.epochs(0).pages_written());
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).jobs(0).epochs_failed(), 0u);
  EXPECT_EQ(Ckpt({"stop", "web"}).status, 0);
  ::kill(pid, SIGKILL);
  EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);  // It became ours: we are the subreaper.
}

TEST_F(CliTest, ADetachedRestoreDoesNotHoldItsCallersPipes) {
  // Its stdout is a pipe to us: restored as "the restoring command's".
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(ends[1], 1);
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, 0);
    ::dup2(null, 2);
    ::syscall(SYS_close_range, 3, ~0u, 0);
    Exec({"/bin/sleep", "1000"});
  }
  ::close(ends[1]);
  const Result start = Ckpt({"start", "--interval", "0", absl::StrCat(pid)});
  EXPECT_EQ(start.status, 0) << start;
  EXPECT_EQ(Ckpt({"stop", "--all"}).status, 0);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  ::close(ends[0]);

  int ours[2];
  ASSERT_EQ(::pipe(ours), 0);
  const pid_t restore = ::fork();
  if (restore == 0) {
    ::dup2(ours[1], 1);
    ::dup2(ours[1], 2);
    ::syscall(SYS_close_range, 3, ~0u, 0);
    Exec(Command({"restore", "--epoch", "latest", "--detach"}));
  }
  ::close(ours[1]);
  const auto said = ReadWholeFd(ours[0], "pipe");  // Until its end: nobody holds it any more.
  ::close(ours[0]);
  int status = 0;
  ::waitpid(restore, &status, 0);
  EXPECT_EQ(status, 0) << *said;
  EXPECT_TRUE(absl::StrContains(*said, "restored sleep")) << *said;
  EXPECT_EQ(::kill(pid, 0), 0);
  EXPECT_EQ(*ReadLink(absl::StrCat("/proc/", pid, "/fd/1")), "/dev/null");
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

TEST_F(CliTest, AFullStdoutIsAnError) {
  const Result result = RunCommand([&] {
    ::dup2(::open("/dev/full", O_WRONLY), 1);
    Exec(Command({"--help"}));
  });
  EXPECT_EQ(result.status, kExitFailed) << result;
}

// ---- import ----

// Half of an exported file comes through the pipe, and then nothing.
class StalledImportTest : public CliTest {
 protected:
  // `web` is tracked, and has an epoch.
  void Track(const Child& target) {
    ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", absl::StrCat(target.pid())}).status, 0);
    ASSERT_EQ(Ckpt({"export", "--epoch", "1", "-o", folder_ + "/file"}).status, 0);
    pipe_ = folder_ + "/pipe";
    ASSERT_EQ(::mkfifo(pipe_.c_str(), 0600), 0);
    writer_ = ScopedFd(::open(pipe_.c_str(), O_RDWR | O_CLOEXEC));
  }
  std::unique_ptr<Child> Import() {
    auto import = std::make_unique<Child>([&] { Exec(Command({"import", "--job", "copy", pipe_})); }, folder_ + "/out",
                                          folder_ + "/err");
    const std::string file = ReadAll(folder_ + "/file");
    EXPECT_TRUE(WriteExactly(writer_.get(), file.data(), file.size() / 2, "pipe").ok());
    // Until it has read that.
    EXPECT_TRUE(Await([&] {
      int left = -1;
      return ::ioctl(writer_.get(), FIONREAD, &left) == 0 && left == 0;
    }));
    ::usleep(200'000);
    EXPECT_TRUE(import->alive());
    return import;
  }
  // As it was before.
  void ExpectUnchanged() {
    EXPECT_EQ(Ckpt({"verify"}).status, 0);
    EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 1);
    EXPECT_EQ(Ckpt({"import", "--job", "copy", folder_ + "/file"}).status, 0) << "the job is free";
  }

  std::string pipe_;
  ScopedFd writer_;
};

TEST_F(StalledImportTest, DoesNotKeepTheDaemonFromExiting) {
  const Child target = Sleeper();
  Track(target);
  const auto daemon = static_cast<pid_t>(Json<pb::StatusReply>({"status"}).daemon_pid());
  ASSERT_GT(daemon, 1);
  const std::unique_ptr<Child> import = Import();
  const Stopwatch waited;
  ::kill(daemon, SIGTERM);
  ASSERT_TRUE(Await([&] { return ::waitpid(daemon, nullptr, WNOHANG) == daemon || ::kill(daemon, 0) != 0; }));
  EXPECT_LT(waited.elapsed_us(), 5'000'000);
  EXPECT_EQ(import->Wait(), kExitFailed);
  EXPECT_TRUE(absl::StrContains(ReadAll(folder_ + "/err"), "was stopped")) << ReadAll(folder_ + "/err");
  ExpectUnchanged();
}

TEST_F(StalledImportTest, EndsWithItsCommand) {
  const Child target = Sleeper();
  Track(target);
  for (const int signal : {SIGINT, SIGKILL}) {
    const std::unique_ptr<Child> import = Import();
    ::kill(import->pid(), signal);
    EXPECT_EQ(import->Wait(), 128 + signal);
    const Stopwatch waited;
    // The job is free again.
    EXPECT_TRUE(Await([&] { return Ckpt({"import", "--job", "copy", folder_ + "/file"}).status == 0; }));
    EXPECT_LT(waited.elapsed_us(), 5'000'000);
  }
  const Stopwatch waited;
  ASSERT_EQ(Ckpt({"stop", "--all"}).status, 0);
  EXPECT_LT(waited.elapsed_us(), 5'000'000);
  EXPECT_EQ(Ckpt({"verify"}).status, 0);
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 3) << "one, and two that came whole";
}

TEST_F(StalledImportTest, IsStoppedWithoutADaemon) {
  const Child target = Sleeper();
  Track(target);
  ASSERT_EQ(Ckpt({"stop", "--all"}).status, 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::unique_ptr<Child> import = Import();
    const Stopwatch waited;
    ::kill(import->pid(), signal);
    EXPECT_EQ(import->Wait(), 128 + signal);
    EXPECT_LT(waited.elapsed_us(), 3'000'000);
    EXPECT_TRUE(absl::StrContains(ReadAll(folder_ + "/err"), "was stopped; the store is as it was"));
  }
  ExpectUnchanged();
}

// ---- gc ----

TEST_F(CliTest, GcRefusals) {
  ExpectRefused(Ckpt({"gc", "--keep-last", "1"}), kExitNotFound, store_);
  ExpectRefused(Ckpt({"gc"}), kExitUsage, "--keep-last N");
  ExpectNoTrace();
  const Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", absl::StrCat(target.pid())}).status, 0);
  for (const bool daemon : {true, false}) {
    ExpectRefused(Ckpt({"gc", "--keep-last", "1", "--job", "db"}), kExitNotFound, "web");
    ExpectRefused(Ckpt({"gc", "--keep", "77"}), kExitNotFound, "77");
    if (daemon) Ckpt({"stop", "--all"});
  }
}

TEST_F(CliTest, GcDropsWhatNoRuleKeepsWithADaemonAndWithout) {
  const Child target = Sleeper();
  const std::string pid = absl::StrCat(target.pid());
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", pid}).status, 0);
  for (int n = 2; n <= 10; ++n) ASSERT_EQ(Ckpt({"checkpoint", "web"}).status, 0);

  const Result text = Ckpt({"gc", "--keep-last", "3", "--keep", "5", "--dry-run"});
  EXPECT_EQ(text.status, 0) << text;
  EXPECT_TRUE(absl::StrContains(text.out, "1-4")) << text;
  EXPECT_TRUE(absl::StrContains(text.out, "would drop 6 epochs and keep 4")) << text;
  const auto plan = Json<pb::GcReply>({"gc", "--keep-last", "3", "--keep", "5", "--dry-run"});
  EXPECT_TRUE(plan.dry_run());
  ASSERT_EQ(plan.epochs_size(), 10);
  EXPECT_FALSE(plan.epochs(3).kept());
  EXPECT_EQ(plan.epochs(4).rule(), "keep");
  EXPECT_EQ(plan.epochs(9).rule(), "last");
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 10) << "a dry run changes nothing";

  const auto done = Json<pb::GcReply>({"gc", "--keep-last", "3", "--keep", "5"});
  EXPECT_FALSE(done.dry_run());
  EXPECT_EQ(done.epochs_dropped(), 6u);
  EXPECT_EQ(done.epochs_kept(), 4u);
  auto list = Json<pb::ListReply>({"list"});
  ASSERT_EQ(list.epochs_size(), 4);
  EXPECT_EQ(list.epochs(0).epoch(), 5u);
  EXPECT_EQ(list.epochs(0).parent(), 0u);
  EXPECT_EQ(list.epochs(1).epoch(), 8u);
  EXPECT_EQ(list.epochs(1).parent(), 5u);
  ExpectRefused(Ckpt({"show", "--epoch", "2"}), kExitNotFound, "5, 8-10");
  EXPECT_EQ(Ckpt({"show", "--epoch", "5"}).status, 0);
  EXPECT_EQ(Ckpt({"checkpoint", "web"}).out, "11\n") << "numbers are not given again";

  ASSERT_EQ(Ckpt({"stop", "--all"}).status, 0);
  const auto alone = Json<pb::GcReply>({"gc", "--keep-last", "1", "--recompress", "zstd"});
  EXPECT_EQ(alone.epochs_dropped(), 4u);
  EXPECT_LE(alone.bytes_after(), alone.bytes_before());
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).daemon_pid(), 0u);
}

TEST_F(CliTest, RestoredFromWhatGcHasLeft) {
  pid_t pid = 0;
  {
    const Child target = Sleeper();
    pid = target.pid();
    ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", absl::StrCat(pid)}).status, 0);
    for (int n = 2; n <= 6; ++n) ASSERT_EQ(Ckpt({"checkpoint", "web"}).status, 0);
    ASSERT_EQ(Ckpt({"gc", "--keep", "4", "--recompress", "zstd"}).status, 0);
  }
  const auto restored = Json<pb::RestoreReply>({"restore", "--epoch", "4", "--detach", "--interval", "0"});
  EXPECT_EQ(restored.pid(), static_cast<uint32_t>(pid));
  // The next epoch is relative to 4: no rule keeps that, but it is in use.
  const auto done = Json<pb::GcReply>({"gc", "--keep-last", "1"});
  ASSERT_EQ(done.epochs_size(), 2);
  EXPECT_EQ(done.epochs(0).rule(), "in use");
  EXPECT_EQ(Ckpt({"checkpoint", "web"}).out, "7\n");
  EXPECT_EQ(Json<pb::GcReply>({"gc", "--keep-last", "1"}).epochs_dropped(), 2u);
  EXPECT_EQ(Ckpt({"show", "--epoch", "7"}).status, 0);
  ::kill(pid, SIGKILL);
}

TEST_F(CliTest, RulesGivenToStartAreAppliedByTheDaemon) {
  const Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "0.02", "--job", "web", "--keep-last", "5",
                  absl::StrCat(target.pid())}).status, 0);
  const auto status = Json<pb::StatusReply>({"status"});
  ASSERT_EQ(status.jobs_size(), 1);
  EXPECT_EQ(status.jobs(0).gc_rules(), "--keep-last 5");
  EXPECT_TRUE(absl::StrContains(Ckpt({"status"}).out, "web: gc --keep-last 5"));
  EXPECT_TRUE(Await([&] {
    const auto list = Json<pb::ListReply>({"list"});
    return list.epochs_size() > 0 && list.epochs(0).epoch() > 40;
  })) << "old epochs are still there";
  EXPECT_EQ(Json<pb::StatusReply>({"status"}).jobs(0).gc_error(), "");
  EXPECT_EQ(Ckpt({"show", "--epoch", "latest"}).status, 0);
}

TEST_F(CliTest, GcIsStoppedByCtrlCAndRunAgain) {
  const Child target = Sleeper();
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "web", absl::StrCat(target.pid())}).status, 0);
  for (int n = 2; n <= 5; ++n) ASSERT_EQ(Ckpt({"checkpoint", "web"}).status, 0);
  ASSERT_EQ(Ckpt({"stop", "--all"}).status, 0);
  Child gc(
      [&] {
        // Each takes 200 ms.
        ::setenv("INCR_CKPT_FAULTS", "store.gc_before_unpublish=sleep,store.gc_after_mark=sleep", 1);
        Exec(Command({"gc", "--keep-last", "1"}));
      },
      "", folder_ + "/gc.err");
  ASSERT_TRUE(Await([&] {
    // Bit 1: SIGINT is caught.
    const std::string status = ReadAll(absl::StrCat("/proc/", gc.pid(), "/status"));
    const size_t at = status.find("SigCgt:\t");
    return at != std::string::npos && (std::strtoull(status.c_str() + at + 8, nullptr, 16) & 2) != 0;
  }));
  ::kill(gc.pid(), SIGINT);
  EXPECT_EQ(gc.Wait(), 130);
  EXPECT_TRUE(absl::StrContains(ReadAll(folder_ + "/gc.err"), "can be run again"));
  EXPECT_EQ(Ckpt({"show", "--epoch", "5"}).status, 0);
  ASSERT_EQ(Ckpt({"gc", "--keep-last", "1"}).status, 0);
  EXPECT_EQ(Json<pb::ListReply>({"list"}).epochs_size(), 1);
}

}  // namespace
}  // namespace incr
