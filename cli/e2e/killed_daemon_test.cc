// Whatever happens to the daemon: the target never stops or stalls, the store opens, every committed
// epoch restores right.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"
#include "store/store.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

class KilledDaemon : public EndToEnd {
 protected:
  // Reads every page of every epoch from `first` on; each is checked against its hash. Returns how
  // many epochs there are.
  uint64_t CheckEpochsFrom(uint64_t first) {
    auto store = StoreReader::Open(store_);
    EXPECT_TRUE(store.ok()) << store.status();
    if (!store.ok()) return 0;
    auto epochs = (*store)->ListEpochs("job");
    if (!epochs.ok()) return 0;  // Killed before the first one.
    for (const pb::EpochRecord& record : *epochs) {
      if (record.epoch() < first) continue;
      auto table = (*store)->LoadPageTable("job", record.epoch());
      EXPECT_TRUE(table.ok()) << table.status();
      EXPECT_TRUE((*store)->ReadImage("job", record.epoch()).ok());
      std::vector<PageId> ids;
      for (const PageTableEntry& entry : *table) ids.push_back(entry.id);
      auto read = (*store)->ReadPages(ids, [](size_t, const uint8_t*) { return absl::OkStatus(); });
      EXPECT_TRUE(read.ok()) << "epoch " << record.epoch() << ": " << read;
    }
    return epochs->empty() ? 0 : epochs->back().epoch();
  }

  // 0 while there is no daemon, or no store yet.
  pid_t DaemonPidIfAny() {
    pb::StatusReply reply;
    const CommandResult result = Ckpt({"--json", "status"});
    return result.status == 0 && ParseJson(result.out, &reply) ? reply.daemon_pid() : 0;
  }

  // One field of /proc/<pid>/status, of every thread.
  std::vector<std::string> StatusField(pid_t pid, const std::string& field) {
    std::vector<std::string> values;
    for (const auto& entry : fs::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
      const std::string status = ReadAll(entry.path().string() + "/status");
      for (absl::string_view line : absl::StrSplit(status, '\n')) {
        if (line.rfind(field, 0) == 0) values.emplace_back(line);
      }
    }
    return values;
  }

  void ExpectUntraced(pid_t pid, int round) {
    EXPECT_TRUE(Await([&] {
      const auto tracers = StatusField(pid, "TracerPid:");
      const auto states = StatusField(pid, "State:");
      return std::all_of(tracers.begin(), tracers.end(),
                         [](const std::string& s) { return s == "TracerPid:\t0"; }) &&
             std::none_of(states.begin(), states.end(), [](const std::string& s) {
               return s.find("\tT") != std::string::npos || s.find("\tt") != std::string::npos;
             });
    })) << "round " << round << ": a thread is still held";
  }
};

TEST_F(KilledDaemon, FiftyTimesAtRandomMomentsNothingIsLostAndTheTargetRunsOn) {
  const uint64_t seed = MonotonicMicros();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  Program target = Program::Start({fs::absolute("testdata/targets/torture"), progress_},
                                  {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return Progress() > 10; }));
  uint64_t checked = 0;
  for (int round = 1; round <= 50 && !HasFailure(); ++round) {
    // The start itself is among the moments: nobody waits for it.
    Program start = StartCkpt({"start", "--interval", "0.03", "--job", "job",
                               absl::StrCat(target.pid())},
                              {"/dev/null", folder_ + "/start.out", folder_ + "/start.err"});
    pid_t daemon = 0;
    ASSERT_TRUE(Await([&] { return (daemon = DaemonPidIfAny()) != 0; }))
        << ReadAll(folder_ + "/start.err");
    usleep(random() % 400'000);
    ASSERT_EQ(kill(daemon, SIGKILL), 0);
    ExpectUntraced(target.pid(), round);
    ExpectProgress(20, absl::StrCat("round ", round));
    start.Wait(20);
    waitpid(daemon, nullptr, 0);  // We are its reaper.
    const uint64_t last = CheckEpochsFrom(checked + 1);
    EXPECT_GE(last, checked) << "round " << round << ": a committed epoch is gone";
    checked = last;
  }
  ASSERT_GT(checked, 25u) << "hardly an epoch was committed: the test proves nothing";
  target.Kill();
  // Each is whole in the store, and each comes to life.
  RecordProperty("epochs_restored", std::to_string(checked));
  for (uint64_t epoch = 1; epoch <= checked && !HasFailure(); ++epoch) {
    KillAndReap(RestoreAndExpectProgress(epoch, 3));
  }
}

// A daemon that hangs (a blocked disk, a SIGSTOP) must not hold the target.
TEST_F(KilledDaemon, StoppedDaemonDoesNotHoldTheTarget) {
  Program target = Program::Start({fs::absolute("testdata/targets/torture"), progress_},
                                  {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return Progress() > 10; }));
  CommandResult started =
      Ckpt({"start", "--interval", "0.02", "--job", "job", absl::StrCat(target.pid())});
  ASSERT_EQ(started.status, 0) << started.err;
  const pid_t daemon = Status().daemon_pid();
  std::mt19937_64 random(MonotonicMicros());
  for (int i = 0; i < 3; ++i) {
    usleep(random() % 100'000);
    kill(daemon, SIGSTOP);
    ExpectProgress(5, "with the daemon stopped");  // The agent's patience is 5 s, ours 10 s.
    kill(daemon, SIGCONT);
    const int before = List().epochs_size();
    EXPECT_TRUE(Await([&] { return List().epochs_size() > before; }))
        << "epochs must go on: " << Status().DebugString();
  }
}

}  // namespace
}  // namespace incr::e2e
