#include "checkpoint/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "checkpoint/memory_oracle.h"
#include "gtest/gtest.h"
#include "process/process_handle.h"
#include "process/soft_dirty.h"
#include "proto/image.pb.h"
#include "store/store.h"
#include "tracker/write_tracker.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

// A program of testdata/targets, killed and reaped by pid at the end.
class Target {
 public:
  explicit Target(std::vector<std::string> arguments) {
    int out[2];
    EXPECT_EQ(pipe(out), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(out[1], 1);
      dup2(open("/dev/null", O_RDWR), 0);
      close_range(3, ~0u, 0);
      std::vector<char*> argv;
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(out[1]);
    output_.reset(out[0]);
    AwaitReady();
  }
  ~Target() { Kill(); }
  void Kill() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }
  // Sends it a SIGUSR1, for its next step, and waits until it is done.
  void Step() {
    kill(pid_, SIGUSR1);
    AwaitReady();
  }

 private:
  void AwaitReady() {
    char line[6];
    EXPECT_EQ(read(output_.get(), line, 6), 6) << "the target has ended";
    EXPECT_EQ(std::string(line, 6), "ready\n");
  }

  pid_t pid_ = 0;
  ScopedFd output_;
};

// Python that runs `steps`, one after each SIGUSR1. `m` is memory of `pages` pages, all of it written.
std::vector<std::string> Advising(const std::string& flags, uint64_t pages,
                                  const std::vector<std::string>& steps) {
  std::string script = absl::StrCat(
      "import mmap, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n", "size = ",
      pages * 4096, "\nm = mmap.mmap(-1, size, flags=", flags, " | mmap.MAP_ANONYMOUS)\n",
      "m[:] = bytes(range(1, 129)) * (size // 128)\n", "print('ready', flush=True)\n");
  for (const std::string& step : steps) {
    absl::StrAppend(&script, "signal.sigwait([signal.SIGUSR1])\n", step,
                    "\nprint('ready', flush=True)\n");
  }
  return {"/usr/bin/python3", "-c", script + "signal.pause()\n"};
}

// The page's content, as a number, at every epoch so far: tells a missed write from a wrong page.
std::string HistoryOf(absl::string_view message, const std::map<uint64_t, OracleImage>& oracles,
                      const OracleImage& last) {
  const size_t at = message.find("page at 0x");
  const uint64_t page = strtoull(std::string(message.substr(at + 8)).c_str(), nullptr, 16) / 4096;
  std::string out = "\nhistory:";
  for (const auto& [epoch, oracle] : oracles) {
    auto it = oracle.pages.find(page);
    absl::StrAppend(&out, " ", epoch, ":", it == oracle.pages.end() ? 0 : it->second % 100000);
  }
  absl::StrAppend(&out, " now:", last.pages.at(page) % 100000, "\n");
  return out;
}

// The agent is our only child beside the target.
pid_t AgentBeside(const Target& target) {
  const auto children = ReadWholeFile(absl::StrCat("/proc/self/task/", getpid(), "/children"));
  if (!children.ok()) return 0;
  for (absl::string_view word : absl::StrSplit(*children, ' ', absl::SkipEmpty())) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(word, &pid) && pid != target.pid()) return pid;
  }
  return 0;
}

class SessionTest : public testing::TestWithParam<std::string> {
 protected:
  SessionTest() {
    directory_ = absl::StrCat(testing::TempDir(), "/session-", getpid(), "-", MonotonicMicros());
    fs::create_directories(directory_);
    StoreOptions options;
    options.create_if_missing = true;
    auto store = Store::Open(directory_ + "/store", options);
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    file_ = directory_ + "/file";
    std::string content(1 << 20, '\0');
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 + i / 4096);
    EXPECT_TRUE(WriteFileDurably(file_, content, 0600).ok());
    EXPECT_TRUE(WriteFileDurably(file_ + ".shared", content, 0600).ok());
  }
  void SetUp() override {
    std::string why;
    const auto works = ChooseTracker(GetParam(), &why);
    if (!works.ok()) GTEST_SKIP() << works.status();
  }
  ~SessionTest() override {
    ArmFaultPoints("");
    store_.reset();
    fs::remove_all(directory_);
  }

  SessionOptions Options() const {
    SessionOptions options;
    options.job = "job";
    options.tracker = GetParam();
    options.agent_command = {"checkpoint/agent_main"};
    return options;
  }

  std::unique_ptr<Target> StartChaos(uint64_t seed, int max_mib) {
    return std::make_unique<Target>(std::vector<std::string>{
        "testdata/targets/mem_chaos", absl::StrCat(seed), file_, absl::StrCat(max_mib)});
  }

  std::string directory_, file_;
  std::unique_ptr<Store> store_;
};

// The promise of the whole system, on a program that does everything to its memory.
TEST_P(SessionTest, EveryEpochEqualsWhatAFullReadInTheSameFreezeSaw) {
  const uint64_t seed = MonotonicMicros();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  const int epochs = 200;
  auto target = StartChaos(seed, 16);
  auto handle = ProcessHandle::Open(target->pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  options.arm_first_pages = 64;  // now and then a stop of its own for new memory
  std::map<uint64_t, OracleImage> oracles;
  OracleImage last;
  options.while_frozen = [&] {
    auto oracle = ReadOracle(*handle);
    ASSERT_TRUE(oracle.ok()) << oracle.status();
    last = *std::move(oracle);
  };
  auto session = CheckpointSession::Start(store_.get(), target->pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  uint64_t pages_gone = 0, pages_written = 0, full = 0, excluded = 0;
  for (int i = 0; i < epochs; ++i) {
    if (i % 17 == 9) {
      // A failed epoch in between must not lose what it had taken.
      ArmFaultPoints("checkpoint.after_thaw=error");
      EXPECT_FALSE((*session)->TakeEpoch().ok());
      ArmFaultPoints("");
    }
    auto result = (*session)->TakeEpoch();
    ASSERT_TRUE(result.ok()) << result.status() << " at epoch " << i + 1;
    ASSERT_EQ(result->record.epoch(), i + 1);
    absl::Status same = CompareWithOracle(*store_, "job", i + 1, last);
    if (!same.ok()) {
      FAIL() << same << HistoryOf(same.message(), oracles, last);
    }
    pages_gone += result->record.stats().pages_gone();
    pages_written += result->record.stats().pages_written();
    full += last.pages.size();
    pb::Image image;
    ASSERT_TRUE(image.ParseFromString(*store_->ReadImage("job", i + 1)));
    for (const pb::Mapping& mapping : image.processes(0).mappings()) {
      excluded += mapping.excluded_pages();
    }
    oracles[i + 1] = std::move(last);
  }
  // Not by accident: things were dropped, and left out.
  EXPECT_GT(pages_gone, 100u);
  EXPECT_GT(excluded, 100u);
  RecordProperty("pages_written", std::to_string(pages_written));
  RecordProperty("pages_populated", std::to_string(full));
  // And every epoch is still what it was, not only the last.
  for (const auto& [epoch, oracle] : oracles) {
    absl::Status same = CompareWithOracle(*store_, "job", epoch, oracle);
    ASSERT_TRUE(same.ok()) << same;
  }
}

// A page that is dropped and written again is, between its fault and the write, a copy of the file that
// looks as clean as what it was before.
TEST_P(SessionTest, APageStoppedBetweenItsFaultAndItsWriteIsTaken) {
  Target target({"testdata/targets/mem_refault", file_, "8"});
  auto handle = ProcessHandle::Open(target.pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  OracleImage last;
  options.while_frozen = [&] { last = *ReadOracle(*handle); };
  auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  for (int i = 1; i <= 60; ++i) {
    ASSERT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
    const absl::Status same = CompareWithOracle(*store_, "job", i, last);
    ASSERT_TRUE(same.ok()) << same;
  }
}

cpu_set_t CpusOf(pid_t pid) {
  cpu_set_t cpus;
  EXPECT_EQ(sched_getaffinity(pid, sizeof cpus, &cpus), 0);
  return cpus;
}

// In the freeze both work; around it this one waits, and any other CPU may be the target's.
TEST_P(SessionTest, TheAgentKeepsOffTheSessionsCpuInTheFreezeAndUsesItAfterwards) {
  const cpu_set_t all = CpusOf(0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "one CPU";
  auto target = StartChaos(1, 8);
  SessionOptions options = Options();
  int cpu = 0, seen = 0;
  options.while_frozen = [&] {
    const cpu_set_t agents = CpusOf(AgentBeside(*target));
    EXPECT_FALSE(CPU_ISSET(cpu, &agents));
    EXPECT_EQ(CPU_COUNT(&agents), CPU_COUNT(&all) - 1);
    ++seen;
  };
  auto session = CheckpointSession::Start(store_.get(), target->pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  int epochs = 0;
  for (cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
    ++epochs;
    const cpu_set_t agents = CpusOf(AgentBeside(*target));
    EXPECT_TRUE(CPU_EQUAL(&agents, &one));
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
  EXPECT_EQ(seen, epochs);
}

TEST_P(SessionTest, TargetThatExitedIsNotFoundAndCommitsNothing) {
  auto target = StartChaos(1, 8);
  auto session = CheckpointSession::Start(store_.get(), target->pid(), Options());
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
  target->Kill();
  auto result = (*session)->TakeEpoch();
  EXPECT_TRUE(absl::IsNotFound(result.status())) << result.status();
  auto epochs = store_->ListEpochs("job");
  ASSERT_TRUE(epochs.ok());
  EXPECT_EQ(epochs->size(), 1u);
}

// The tracer may be killed at any time; the next epoch gets another.
TEST_P(SessionTest, KilledAgentLeavesTheTargetRunningAndTheNextEpochWorks) {
  auto target = StartChaos(2, 8);
  auto session = CheckpointSession::Start(store_.get(), target->pid(), Options());
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
  const pid_t agent = AgentBeside(*target);
  ASSERT_NE(agent, 0);
  kill(agent, SIGKILL);
  (void)(*session)->TakeEpoch();  // May notice the death.
  auto result = (*session)->TakeEpoch();
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(waitpid(target->pid(), nullptr, WNOHANG), 0) << "the target must still run";
}

// Its death lets the target go while the session still scans: a page may then be re-armed although
// it was written a moment before. Nothing of such a freeze may be believed, in this epoch or later.
TEST_P(SessionTest, AgentKilledInMidFreezeCostsAFullEpochAndNoWrite) {
  auto target = StartChaos(3, 8);
  auto handle = ProcessHandle::Open(target->pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  bool kill_it = false;
  OracleImage last;
  options.while_frozen = [&] {
    if (kill_it) {
      kill(AgentBeside(*target), SIGKILL);
      usleep(50'000);
    } else {
      last = *ReadOracle(*handle);
    }
  };
  auto session = CheckpointSession::Start(store_.get(), target->pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
  for (int round = 0; round < 5; ++round) {
    kill_it = true;
    EXPECT_FALSE((*session)->TakeEpoch().ok());
    kill_it = false;
    for (uint64_t parent = 0, i = 0; i < 3; ++i) {
      auto result = (*session)->TakeEpoch();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->record.parent(), parent);
      parent = result->record.epoch();
      const absl::Status same = CompareWithOracle(*store_, "job", parent, last);
      EXPECT_TRUE(same.ok()) << same;
    }
  }
}

// A direct read under way writes to memory that no write protection sees: such memory may be looked
// at in the freeze only.
TEST_P(SessionTest, WithAFileOpenForDirectIoNothingIsTakenWhileTheTargetRuns) {
  const std::string script = absl::StrCat(
      "import os, mmap\nfd = os.open('", file_, "', os.O_RDONLY | os.O_DIRECT)\n",
      "buffer = mmap.mmap(-1, 1 << 20)\nprint('ready', flush=True)\n",
      "while True: os.preadv(fd, [buffer], 0); buffer[0:4096] = os.urandom(4096)\n");
  Target target({"/usr/bin/python3", "-c", script});
  auto handle = ProcessHandle::Open(target.pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  OracleImage last;
  options.while_frozen = [&] { last = *ReadOracle(*handle); };
  auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  for (uint64_t epoch = 1; epoch <= 20; ++epoch) {
    auto result = (*session)->TakeEpoch();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->record.stats().precopy_rounds(), 0u);
    ASSERT_FALSE(result->warnings.empty());
    EXPECT_NE(result->warnings[0].find("direct I/O"), std::string::npos) << result->warnings[0];
    const absl::Status same = CompareWithOracle(*store_, "job", epoch, last);
    EXPECT_TRUE(same.ok()) << same;
  }
}

// Direct from a moment after the look before the pre-copy: what the pre-copy noted is not believed.
TEST_P(SessionTest, AFileThatTurnsDirectDuringAnEpochMakesItStartAnew) {
  Target target({"/usr/bin/python3", "-c",
                 absl::StrCat("import os, time\nfd = os.open('", file_, "', os.O_RDONLY)\n",
                              "os.dup2(fd, 50)\nprint('ready', flush=True)\ntime.sleep(1000)\n")});
  auto handle = ProcessHandle::Open(target.pid());
  ASSERT_TRUE(handle.ok());
  auto shared = handle->DuplicateFd(50);  // the same open file
  ASSERT_TRUE(shared.ok()) << shared.status();
  SessionOptions options = Options();
  int freezes = 0;
  options.while_frozen = [&] {
    if (++freezes == 2) {
      EXPECT_EQ(fcntl(shared->get(), F_SETFL, O_DIRECT), 0);
    }
  };
  auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
  auto result = (*session)->TakeEpoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(freezes, 3);
  EXPECT_EQ(result->record.epoch(), 2u);
  EXPECT_EQ(result->record.parent(), 0u);
  EXPECT_EQ(result->record.stats().precopy_rounds(), 0u);
}

// What is read before the freeze and after it must be what it was in between.
TEST_P(SessionTest, LimitsThatChangeDuringAnEpochAreTakenAnew) {
  auto target = StartChaos(4, 8);
  SessionOptions options = Options();
  int freezes = 0;
  options.while_frozen = [&] {
    if (++freezes != 1) return;
    const rlimit fewer{512, 1024};
    EXPECT_EQ(prlimit(target->pid(), RLIMIT_NOFILE, &fewer, nullptr), 0);
  };
  auto session = CheckpointSession::Start(store_.get(), target->pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  auto result = (*session)->TakeEpoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(freezes, 2);
  EXPECT_EQ(result->record.epoch(), 1u);
  auto bytes = store_->ReadImage("job", 1);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  pb::Image image;
  ASSERT_TRUE(image.ParseFromString(*bytes));
  uint64_t soft = 0;
  for (const auto& limit : image.processes(0).limits()) {
    if (limit.resource() == RLIMIT_NOFILE) soft = limit.soft();
  }
  EXPECT_EQ(soft, 512u);
}

// Another user of /proc/<pid>/clear_refs takes soft-dirty's baseline away, at any moment of an epoch: an epoch may
// fail for it, and another back end come to the rescue; none may lack a write.
TEST_P(SessionTest, OthersWhoClearSoftDirtyBitsMakeNoEpochWrong) {
  auto target = StartChaos(6, 8);
  auto handle = ProcessHandle::Open(target->pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  options.arm_first_pages = 64;
  OracleImage last;
  options.while_frozen = [&] { last = *ReadOracle(*handle); };
  auto session = CheckpointSession::Start(store_.get(), target->pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  std::atomic<bool> stop{false};
  std::thread other([&] {
    for (int i = 0; !stop; ++i) {
      EXPECT_TRUE(ClearSoftDirty(*handle).ok());
      usleep(i % 50 * 1'000);
    }
  });
  int durable = 0;
  for (int i = 0; i < 60 && durable < 20; ++i) {
    auto result = (*session)->TakeEpoch();
    if (!result.ok()) {
      EXPECT_TRUE(absl::IsAborted(result.status())) << result.status();
      continue;
    }
    ++durable;
    const absl::Status same = CompareWithOracle(*store_, "job", result->record.epoch(), last);
    EXPECT_TRUE(same.ok()) << same << " by " << (*session)->tracker_name();
  }
  stop = true;
  other.join();
  EXPECT_EQ(durable, 20) << (*session)->tracker_name();
}

// A program that calls exec has another memory: never an increment against the old one.
TEST_P(SessionTest, ExecStartsAFullEpoch) {
  Target target({"/bin/bash", "-c",
                 absl::StrCat("echo ready; sleep 0.5; exec testdata/targets/mem_chaos 5 ", file_,
                              " 8 > /dev/null")});
  auto handle = ProcessHandle::Open(target.pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  options.allow_unsupported = true;  // bash's child, sleep.
  OracleImage last;
  options.while_frozen = [&] { last = *ReadOracle(*handle); };
  auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  auto result = (*session)->TakeEpoch();
  ASSERT_TRUE(result.ok()) << result.status();
  while (ReadProcessFacts(*handle)->comm != "mem_chaos") usleep(10'000);
  usleep(100'000);
  result = (*session)->TakeEpoch();
  if (!result.ok()) result = (*session)->TakeEpoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->record.parent(), 0u);
  absl::Status same = CompareWithOracle(*store_, "job", result->record.epoch(), last);
  EXPECT_TRUE(same.ok()) << same;
}

// All of it marked, and unmarked again without a write in between: neither changes the layout, and to
// the tracker all its pages are known.
TEST_P(SessionTest, MemoryMarkedDontDumpLeavesTheTableAndComesBackWhole) {
  constexpr uint64_t kPages = 97;
  for (const char* flags : {"mmap.MAP_PRIVATE", "mmap.MAP_SHARED"}) {
    SCOPED_TRACE(flags);
    Target target(Advising(flags, kPages,
                           {"m.madvise(mmap.MADV_DONTDUMP)", "m[0:8] = b'changed!'",
                            "m.madvise(mmap.MADV_DODUMP)"}));
    auto handle = ProcessHandle::Open(target.pid());
    ASSERT_TRUE(handle.ok());
    SessionOptions options = Options();
    options.job = flags + 5;
    options.flags_fresh_us = 0;  // New advice counts at once.
    OracleImage last;
    options.while_frozen = [&] { last = *ReadOracle(*handle); };
    auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
    ASSERT_TRUE(session.ok()) << session.status();
    const uint64_t expected[] = {0, kPages, kPages, 0};
    for (int epoch = 1; epoch <= 4; ++epoch) {
      SCOPED_TRACE(epoch);
      if (epoch > 1) target.Step();
      auto result = (*session)->TakeEpoch();
      ASSERT_TRUE(result.ok()) << result.status();
      const absl::Status same = CompareWithOracle(*store_, options.job, epoch, last);
      EXPECT_TRUE(same.ok()) << same;
      pb::Image image;
      ASSERT_TRUE(image.ParseFromString(*store_->ReadImage(options.job, epoch)));
      const PageSet saved = PagesOfSpace(*store_->LoadPageTable(options.job, epoch), 0);
      uint64_t excluded = 0;
      for (const pb::Mapping& mapping : image.processes(0).mappings()) {
        if (!mapping.excluded()) continue;
        excluded += mapping.excluded_pages();
        PageSet pages;
        pages.Add({mapping.start() / kPageSize, (mapping.end() - mapping.start()) / kPageSize});
        EXPECT_TRUE(saved.Intersect(pages).empty());
        EXPECT_EQ(mapping.advice(mapping.advice_size() - 1), static_cast<uint32_t>(MADV_DONTDUMP));
      }
      EXPECT_EQ(excluded, expected[epoch - 1]);
      EXPECT_GE(last.dontdump.page_count(), expected[epoch - 1]);  // vvar too
      EXPECT_EQ(image.warnings_size() > 0, excluded > 0);
      EXPECT_GE(result->record.stats().pages_gone(), epoch == 2 ? kPages : 0u);
      EXPECT_GE(result->record.stats().pages_written(), epoch == 4 ? kPages : 0u);
    }
  }
}

// The freeze of the failed epoch has read that the page was written; the table still has the page before.
TEST_P(SessionTest, MemoryWrittenAndMarkedInAnEpochThatFailsIsSavedOnceUnmarked) {
  Target target(Advising("mmap.MAP_PRIVATE", 97,
                         {"m.madvise(mmap.MADV_DONTDUMP); m[0:8] = b'changed!'",
                          "m.madvise(mmap.MADV_DODUMP)"}));
  auto handle = ProcessHandle::Open(target.pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  options.max_precopy_rounds = 0;  // What a round finds is remembered anyway.
  options.flags_fresh_us = 0;
  OracleImage last;
  options.while_frozen = [&] { last = *ReadOracle(*handle); };
  auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_EQ((*session)->TakeEpoch().status(), absl::OkStatus());
  target.Step();
  ArmFaultPoints("checkpoint.after_thaw=error");
  EXPECT_FALSE((*session)->TakeEpoch().ok());
  ArmFaultPoints("");
  target.Step();
  auto result = (*session)->TakeEpoch();
  ASSERT_TRUE(result.ok()) << result.status();
  const absl::Status same = CompareWithOracle(*store_, "job", 2, last);
  EXPECT_TRUE(same.ok()) << same;
}

TEST_P(SessionTest, IncludeDontDumpSavesItAll) {
  Target target(Advising("mmap.MAP_PRIVATE", 97, {"m.madvise(mmap.MADV_DONTDUMP)"}));
  target.Step();
  auto handle = ProcessHandle::Open(target.pid());
  ASSERT_TRUE(handle.ok());
  SessionOptions options = Options();
  options.include_dontdump = true;
  OracleImage last;
  options.while_frozen = [&] { last = *ReadOracle(*handle); };
  auto session = CheckpointSession::Start(store_.get(), target.pid(), options);
  ASSERT_TRUE(session.ok()) << session.status();
  auto result = (*session)->TakeEpoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(last.dontdump.page_count(), 97u);
  last.dontdump.Clear();  // none of it may be missing
  const absl::Status same = CompareWithOracle(*store_, "job", 1, last);
  EXPECT_TRUE(same.ok()) << same;
}

INSTANTIATE_TEST_SUITE_P(Trackers, SessionTest, testing::Values("uffd-wp-async", "uffd-wp", "soft-dirty",
                                         "compare"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace incr
