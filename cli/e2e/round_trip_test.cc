// The round trip, on real programs: track, keep a chain of epochs, kill, bring any of
// them back, track again, bring back from the new chain.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

class RoundTrip : public EndToEnd {
 protected:
  // Tracks `pid`, takes a chain of at least `epochs`, kills it, restores every epoch of the chain;
  // tracks the last one restored again, restores from the new chain too. Returns the pid of the
  // last restored process, running.
  pid_t WholeRoundTrip(Program* program, int epochs) {
    const pid_t pid = program->pid();
    std::vector<std::string> tracking = {"--interval", "0.2"};
    if (!WantedTracker().empty()) tracking.insert(tracking.end(), {"--tracker", WantedTracker()});
    std::vector<std::string> start = {"start", "--job", "job", absl::StrCat(pid)};
    start.insert(start.end(), tracking.begin(), tracking.end());
    CommandResult started = Ckpt(start);
    EXPECT_EQ(started.status, 0) << started.err;
    EXPECT_TRUE(Await([&] { return List().epochs_size() >= epochs; }, 60'000)) << Status().DebugString();
    ExpectProgress(3, "while tracked");
    program->Kill();
    if (HasFailure()) return 0;

    // Not only the last: all.
    const int count = List().epochs_size();
    for (int epoch = 1; epoch <= count && !HasFailure(); ++epoch) {
      const pid_t restored = RestoreAndExpectProgress(epoch, 3);
      EXPECT_EQ(restored, pid);
      KillAndReap(restored);
    }
    if (HasFailure()) return 0;

    // Tracked again from an epoch in the middle: the next epoch is incremental against it.
    const int middle = (count + 1) / 2;
    const pid_t tracked = RestoreAndExpectProgress(middle, 3, tracking);
    EXPECT_TRUE(Await([&] { return List().epochs_size() >= count + 3; }, 30'000))
        << Status().DebugString();
    KillAndReap(tracked);
    if (HasFailure()) return 0;
    const pb::ListReply list = List();
    EXPECT_EQ(list.epochs(count).parent(), middle);
    // (soft-dirty has one bit for the 512 pages of a huge page.)
    const uint64_t most = list.epochs(0).pages_written() * (WantedTracker() == "soft-dirty" ? 4 : 3) / 4;
    EXPECT_LT(list.epochs(count).pages_written(), most)
        << "the first epoch after a restore must be incremental";
    for (const pb::EpochRow& row : list.epochs()) {
      // Not by another one that stepped in.
      EXPECT_TRUE(WantedTracker().empty() || row.tracker() == WantedTracker()) << row.DebugString();
    }
    for (int epoch = count + 1; epoch < list.epochs_size() && !HasFailure(); ++epoch) {
      KillAndReap(RestoreAndExpectProgress(epoch, 3));
    }
    return HasFailure() ? 0 : RestoreAndExpectProgress(list.epochs_size(), 3);
  }
};

TEST_F(RoundTrip, EightThreadsThatWouldNoticeOneWrongByte) {
  Program program = Program::Start({fs::absolute("testdata/targets/torture"), progress_},
                                   {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return Progress() > 10; }));
  const pid_t pid = WholeRoundTrip(&program, EpochsToTake(10));
  ASSERT_NE(pid, 0);
  // All eight threads can still be joined, and the program ends by itself.
  ASSERT_TRUE(WriteFileDurably(progress_ + ".stop", "", 0600).ok());
  EXPECT_EQ(WaitFor(pid, 20), 0) << ReadAll(progress_);
}

TEST_F(RoundTrip, PythonInMidComputation) {
  const int steps = 2500;
  Program program = Program::Start(
      {"/usr/bin/python3", fs::absolute("testdata/targets/computation.py"), progress_,
       absl::StrCat(steps)},
      {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return Progress() > 10; }));
  const pid_t pid = WholeRoundTrip(&program, EpochsToTake(10));
  ASSERT_NE(pid, 0);
  // To its end: the log, written across restores, must hold every line.
  EXPECT_EQ(WaitFor(pid, 90), 0) << ReadAll(progress_) << ReadAll(folder_ + "/err");
  EXPECT_NE(ReadAll(folder_ + "/out").find("finished"), std::string::npos);
}

// `run` has the command wait until its first epoch is durable: that waiting is no part of the epoch.
TEST_F(RoundTrip, FirstEpochOfARunStartsTheCommandAnew) {
  const std::vector<std::string> command = {
      "run", "--interval", "0", "--job", "job", "--", "/bin/bash", "-c",
      absl::StrCat("echo began >> ", folder_, "/began; exit 5")};
  Program run = StartCkpt(command, {"/dev/null", folder_ + "/out", folder_ + "/err"});
  EXPECT_EQ(run.Wait(20), 5) << ReadAll(folder_ + "/err");
  const CommandResult restored = Ckpt({"restore", "--epoch", "1"});
  EXPECT_EQ(restored.status, 5) << restored.err;
  EXPECT_EQ(ReadAll(folder_ + "/began"), "began\nbegan\n");
}

TEST_F(RoundTrip, CommandWhoseRunIsKilledInTheFirstEpochIsLetGo) {
  Program run = StartCkpt({"run", "--interval", "0", "--job", "job", "--",
                           fs::absolute("testdata/targets/torture"), progress_},
                          {"/dev/null", folder_ + "/out", folder_ + "/err"});
  pb::StatusReply status;
  ASSERT_TRUE(Await([&] {
    const CommandResult result = Ckpt({"--json", "status"});
    return result.status == 0 && ParseJson(result.out, &status) && status.jobs_size() == 1;
  }));
  run.Kill();
  EXPECT_TRUE(Await([&] { return Progress() > 3; })) << ReadAll(folder_ + "/err");
  ASSERT_EQ(Ckpt({"stop", "job"}).status, 0);
  KillAndReap(static_cast<pid_t>(status.jobs(0).pid()));
}

// One stage of a pipeline: its neighbours' pipes are the restoring command's own.
TEST_F(RoundTrip, SingleStageOfAPipelineGoesOnWithNewNeighbours) {
  // The stage numbers its input lines and keeps the count in memory.
  const std::string stage =
      "/bin/bash -c 'n=0; while read -r line; do n=$((n + 1)); echo \"$n $line\"; done'";
  Program shell = Program::Start(
      {"/bin/bash", "-c",
       absl::StrCat("{ for i in $(seq 100); do echo line; done; exec sleep 60; } | { ", "echo $BASHPID > ",
                    folder_, "/pid; exec ", stage, "; } | cat > ", folder_, "/out1")},
      {"/dev/null", folder_ + "/o", folder_ + "/e"});
  ASSERT_TRUE(Await([&] {
    return ReadAll(folder_ + "/out1").find("100 line") != std::string::npos;
  }));
  const std::string pid = absl::StrCat(atoi(ReadAll(folder_ + "/pid").c_str()));
  CommandResult started = Ckpt({"start", "--interval", "0", "--job", "stage", pid});
  ASSERT_EQ(started.status, 0) << started.err;
  ASSERT_EQ(Ckpt({"stop", "stage"}).status, 0);
  // The whole pipeline ends; the stage is brought back between a new producer and a new consumer.
  kill(atoi(pid.c_str()), SIGKILL);
  shell.Kill();
  ASSERT_TRUE(Await([&] {
    waitpid(-1, nullptr, WNOHANG);
    return kill(atoi(pid.c_str()), 0) != 0;
  }));
  Program again = Program::Start(
      {"/bin/bash", "-c",
       absl::StrCat("{ for i in 1 2 3; do echo more; done; } | ", CkptBinary(), " --store ", store_,
                    " restore --epoch 1 2> ", folder_, "/restore.err | cat > ", folder_, "/out2")},
      {"/dev/null", folder_ + "/o", folder_ + "/e"});
  EXPECT_EQ(again.Wait(20), 0) << ReadAll(folder_ + "/restore.err");
  EXPECT_EQ(ReadAll(folder_ + "/out2"), "101 more\n102 more\n103 more\n")
      << ReadAll(folder_ + "/restore.err");
}

}  // namespace
}  // namespace incr::e2e
