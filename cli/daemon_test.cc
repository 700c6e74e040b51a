// The daemon as a process of its own, with fake sessions: this test binary is also the daemon
// (see main below), so that starting, racing and killing are the real thing.
#include "cli/daemon.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/daemon_client.h"
#include "cli/fakes.h"
#include "cli/spawn_daemon.h"

namespace incr {
namespace {

// One world for the daemon's life; any pid that it is asked for is a process of it.
class GenerousFactory : public FakeSessionFactory {
 public:
  GenerousFactory() : FakeSessionFactory(&world_) {}
  absl::StatusOr<std::string> CheckTarget(pid_t pid, pid_t holder) override {
    if (!FakeSessionFactory::CheckTarget(pid, holder).ok()) world_.AddProcess(pid, "fake");
    // A process that dies as soon as it is tracked, for the test of the last job's end.
    if (pid == 13) {
      std::thread([this] {
        world_.AwaitEpochsBegun(1);
        world_.Exit(13);
      }).detach();
    }
    return FakeSessionFactory::CheckTarget(pid, holder);
  }

 private:
  FakeWorld world_;
};

int FakeDaemon(const std::string& store, int ready_fd) {
  DaemonOptions options;
  options.store = store;
  options.ready_fd = ready_fd;
  options.first_grace_s = 5;
  options.grace_s = 0.2;
  DaemonDependencies dependencies;
  dependencies.open_store = [](const std::string& directory) {
    if (::access(absl::StrCat(directory, "/crash").c_str(), F_OK) == 0) {
      (void)!::write(STDERR_FILENO, "terminate called\n", 17);
      ::raise(SIGKILL);
    }
    if (::access(absl::StrCat(directory, "/broken").c_str(), F_OK) == 0) {
      return absl::StatusOr<std::unique_ptr<Store>>(
          absl::DataLossError(absl::StrCat(directory, ": index is broken")));
    }
    return FakeStore::Open(directory);
  };
  dependencies.make_sessions = [](Store*) { return std::make_unique<GenerousFactory>(); };
  return RunDaemon(options, dependencies);
}

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::string pattern = absl::StrCat(::testing::TempDir(), "/daemonXXXXXX");
    INCR_CHECK(::mkdtemp(pattern.data()) != nullptr);
    store_ = std::filesystem::canonical(pattern).string();
  }
  ~DaemonTest() override {
    for (const pid_t pid : started_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    std::system(absl::StrCat("rm -rf ", store_).c_str());
  }

  DaemonClient Client() {
    return *DaemonClient::ForStore(store_, {"/proc/self/exe", "internal-daemon", store_});
  }
  pid_t DaemonPid() {
    const auto status = Client().Status();
    if (!status.ok()) return 0;
    started_.insert(status->daemon_pid());
    return static_cast<pid_t>(status->daemon_pid());
  }
  absl::StatusOr<pb::EpochReply> Start(uint32_t pid) {
    pb::StartRequest request;
    request.set_pid(pid);
    auto client = Client();
    auto reply = client.Start(request, nullptr);
    DaemonPid();
    return reply;
  }
  static void Reap(pid_t pid) { ASSERT_EQ(::waitpid(pid, nullptr, 0), pid); }

  std::string store_;
  std::set<pid_t> started_;
};

TEST_F(DaemonTest, TheFirstStartStartsItTheSecondFindsIt) {
  ASSERT_TRUE(Start(100).ok());
  const pid_t daemon = DaemonPid();
  ASSERT_GT(daemon, 0);
  ASSERT_TRUE(Start(101).ok());
  EXPECT_EQ(DaemonPid(), daemon);
}

TEST_F(DaemonTest, ItHasNothingOfItsCallers) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);  // Inheritable: a caller that waits for its end.
  ASSERT_TRUE(Start(100).ok());
  ::close(pipe_ends[1]);
  pollfd end{pipe_ends[0], POLLIN, 0};
  EXPECT_EQ(::poll(&end, 1, 2000), 1) << "the daemon holds the caller's pipe";
  ::close(pipe_ends[0]);
  const pid_t daemon = DaemonPid();
  EXPECT_EQ(::getsid(daemon) == ::getsid(0), false);
  EXPECT_EQ(*ReadLink(absl::StrCat("/proc/", daemon, "/cwd")), "/");
  EXPECT_EQ(*ReadLink(absl::StrCat("/proc/", daemon, "/fd/1")), "/dev/null");
  EXPECT_EQ(*ReadLink(absl::StrCat("/proc/", daemon, "/fd/2")), store_ + "/daemon.log");
}

TEST_F(DaemonTest, OfManyStartersAtOnceAllAreServedByOne) {
  std::vector<pid_t> starters;
  for (uint32_t i = 0; i < 8; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(Start(100 + i).ok() ? 0 : 1);
    starters.push_back(pid);
  }
  for (const pid_t pid : starters) {
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  ASSERT_GT(DaemonPid(), 0);
  EXPECT_EQ(Client().Status()->jobs_size(), 8);
}

TEST_F(DaemonTest, AKilledOneIsReplacedAndItsSocketToo) {
  ASSERT_TRUE(Start(100).ok());
  const pid_t daemon = DaemonPid();
  ::kill(daemon, SIGKILL);
  Reap(daemon);
  started_.erase(daemon);
  EXPECT_TRUE(absl::IsUnavailable(Client().Status().status()));
  ASSERT_TRUE(Start(100).ok());
  EXPECT_NE(DaemonPid(), daemon);
}

TEST_F(DaemonTest, ItEndsWithItsLastJobAndLeavesNoSocket) {
  ASSERT_TRUE(Start(13).ok());
  for (const pid_t pid : started_) Reap(pid);
  started_.clear();
  EXPECT_NE(::access(absl::StrCat(store_, "/daemon.sock").c_str(), F_OK), 0);
  ASSERT_TRUE(Start(100).ok());
}

TEST_F(DaemonTest, AStartThatMeetsItsEndIsNotLost) {
  for (int i = 0; i < 20; ++i) {
    const auto started = Start(100);
    ASSERT_TRUE(started.ok()) << i << ": " << started.status();
    pb::StopRequest stop;
    stop.set_all(true);
    auto client = Client();
    const auto stopped = client.Stop(stop);
    ASSERT_TRUE(stopped.ok()) << i << ": " << stopped.status();  // It is exiting now.
  }
}

TEST_F(DaemonTest, SigtermEndsItInOrder) {
  ASSERT_TRUE(Start(100).ok());
  const pid_t daemon = DaemonPid();
  ::kill(daemon, SIGTERM);
  int status = -1;
  ASSERT_EQ(::waitpid(daemon, &status, 0), daemon);
  started_.erase(daemon);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const std::string log = *ReadWholeFile(store_ + "/daemon.log");
  EXPECT_TRUE(absl::StrContains(log, "stopped")) << log;
}

TEST_F(DaemonTest, AStoreThatDoesNotOpenIsToldToWhoeverStartsIt) {
  ASSERT_TRUE(WriteFileDurably(store_ + "/broken", "", 0600).ok());
  const auto reply = Start(100);
  EXPECT_EQ(reply.status().message(), absl::StrCat(store_, ": index is broken"));
}

TEST_F(DaemonTest, LastWordsOfADaemonThatDiesAtOnceAreHeard) {
  ASSERT_TRUE(WriteFileDurably(store_ + "/crash", "", 0600).ok());
  EXPECT_TRUE(absl::StrContains(Start(100).status().message(), "terminate called"));
}

TEST_F(DaemonTest, ALockThatIsNoDaemonsIsReported) {
  auto other = FakeStore::Open(store_);
  ASSERT_TRUE(other.ok());
  const absl::Status spawned = SpawnDaemon({"/proc/self/exe", "internal-daemon", store_});
  EXPECT_TRUE(absl::IsAborted(spawned)) << spawned;
  EXPECT_TRUE(absl::StrContains(spawned.message(), "locked")) << spawned;
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  int fd = -1;
  if (argc == 4 && std::string(argv[1]) == "internal-daemon" && absl::SimpleAtoi(argv[3], &fd)) {
    return incr::FakeDaemon(argv[2], fd);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
