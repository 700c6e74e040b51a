// Real programs, checkpointed, killed and brought back; each checks itself
// (testdata/targets/rst_*.cc).
#include "restore/restore.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/clock.h"
#include "base/file.h"
#include "process/kernel_abi.h"
#include "process/userfaultfd.h"
#include "restore/round_trip.h"

namespace incr {
namespace {

#define ASSERT_OK(expression)                    \
  do {                                           \
    const absl::Status status_ = (expression);   \
    ASSERT_TRUE(status_.ok()) << status_;        \
  } while (0)

void ExpectDone(RoundTrip& trip, int signal) {
  trip.Signal(signal);
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();
  EXPECT_NE(trip.output().find("\ndone\n"), std::string::npos);
}

// Checkpoint, kill, restore and let tick, `rounds` times, each from the restored process.
void GoThrough(RoundTrip& trip, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    ASSERT_OK(trip.WaitForLine("tick"));
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    ASSERT_OK(trip.WaitForLine("tick"));  // It goes on after the checkpoint, too.
    trip.Kill();
    ASSERT_OK(trip.Restore(*epoch));
    ASSERT_OK(trip.WaitForLine("tick"));
    ASSERT_OK(trip.WaitForLine("tick"));
  }
}

TEST(Restore, IdentityLimitsClockAndHeapComeBack) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_identity", "an argument", "--", ""}));
  ASSERT_NO_FATAL_FAILURE(GoThrough(trip, 4));
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, ThreadsGoOnWithVectorsLocksAndThreadLocals) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_threads"}));
  ASSERT_NO_FATAL_FAILURE(GoThrough(trip, 8));
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, BlockedCallsGoOnWithoutEintr) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_blocked"}));
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  ASSERT_OK(trip.Restore(*epoch));
  usleep(100'000);
  ExpectDone(trip, SIGUSR1);
}

// The second freeze finds restart_syscall where the sleeping call's number was.
TEST(Restore, CallsBlockedThroughManyCheckpointsGoOn) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_blocked"}));
  for (int i = 0; i < 3; ++i) ASSERT_OK(trip.Checkpoint().status());
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  for (int i = 0; i < 2; ++i) {
    ASSERT_OK(trip.Restore(*epoch));
    usleep(50'000);
    epoch = trip.Checkpoint();
    ASSERT_TRUE(epoch.ok()) << epoch.status() << trip.output();
    epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    if (i == 0) trip.Kill();
  }
  ExpectDone(trip, SIGUSR1);
}

TEST(Restore, SignalsPendingHandlersAndTimersComeBack) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_signals"}));
  for (int i = 0; i < 3; ++i) {
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    trip.Kill();
    ASSERT_OK(trip.Restore(*epoch));
    usleep(30'000);
  }
  ExpectDone(trip, SIGHUP);
}

TEST(Restore, MemoryOfEveryKindComesBack) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_memory", trip.directory()}));
  ASSERT_NO_FATAL_FAILURE(GoThrough(trip, 4));
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, StaticProgramsAtFixedAddressesComeBack) {
  {
    RoundTrip trip;
    ASSERT_OK(trip.Start({"rst_identity_static", "x"}));
    ASSERT_NO_FATAL_FAILURE(GoThrough(trip, 2));
    ExpectDone(trip, SIGTERM);
  }
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_memory_static", trip.directory()}));
  ASSERT_NO_FATAL_FAILURE(GoThrough(trip, 2));
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, HundredsOfThreadsComeBackUnderTheirOldIds) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_many", "500"}));
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  const Stopwatch watch;
  ASSERT_OK(trip.Restore(*epoch));
  std::printf("501 threads restored in %ld us\n", watch.elapsed_us());
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, AnyEpochCanBeChosenNotOnlyTheLast) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_threads"}));
  std::vector<uint64_t> epochs;
  for (int i = 0; i < 5; ++i) {
    ASSERT_OK(trip.WaitForLine("tick"));
    auto epoch = trip.Checkpoint();
    ASSERT_OK(epoch.status());
    epochs.push_back(*epoch);
  }
  for (uint64_t epoch : {epochs[3], epochs[0], epochs[4], epochs[0]}) {
    trip.Kill();
    ASSERT_OK(trip.Restore(epoch));
    ASSERT_OK(trip.WaitForLine("tick"));
  }
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, AStoppedJobComesBackStopped) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_threads"}));
  ASSERT_OK(trip.WaitForLine("tick"));
  trip.Signal(SIGSTOP);
  int status = 0;
  ASSERT_EQ(waitpid(trip.pid(), &status, WUNTRACED), trip.pid());
  ASSERT_TRUE(WIFSTOPPED(status));
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  ASSERT_OK(trip.Restore(*epoch));
  ASSERT_EQ(waitpid(trip.pid(), &status, WUNTRACED), trip.pid());
  ASSERT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) << status;
  trip.Signal(SIGCONT);
  ASSERT_OK(trip.WaitForLine("tick"));
  ExpectDone(trip, SIGTERM);
}

TEST(Restore, ASignalSentWhileItWasBuiltArrivesOnce) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_blocked"}));
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  auto restored = trip.RestoreStopped(*epoch);
  ASSERT_OK(restored.status());
  ::kill((*restored)->pid(), SIGUSR1);
  trip.Adopt(**restored);
  ASSERT_OK((*restored)->Release());
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();
}

// pause() has no race with its signal here: it was frozen inside. Made again after the handler
// it would wait for ever.
TEST(Restore, ASignalThatWaitedInTheFreezeInterruptsThePause) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_pause"}));
  usleep(20'000);
  auto epoch = trip.Checkpoint([&] { trip.Signal(SIGUSR1); });
  ASSERT_OK(epoch.status());
  EXPECT_EQ(trip.WaitForExit(), 0) << trip.output();  // as it does without us
  ASSERT_OK(trip.Restore(*epoch));
  EXPECT_EQ(trip.WaitForExit(5), 0) << trip.output();
}

// So that it can be tracked from before its first instruction.
TEST(Restore, AUserfaultfdOfTheNewProcessIsHandedOver) {
  RoundTrip trip;
  ASSERT_OK(trip.Start({"rst_threads"}));
  auto epoch = trip.Checkpoint();
  ASSERT_OK(epoch.status());
  trip.Kill();
  RestoreOptions options;
  options.uffd_features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
  auto restored = trip.RestoreStopped(*epoch, options);
  if (absl::IsInvalidArgument(restored.status())) GTEST_SKIP() << restored.status();  // Before 6.7
  ASSERT_OK(restored.status());
  trip.Adopt(**restored);
  const ScopedFd uffd = (*restored)->TakeUserfaultfd();
  ASSERT_TRUE(uffd.ok());
  const pb::Process& process = (*restored)->image().processes(0);
  int registered = 0;
  for (const pb::Mapping& mapping : process.mappings()) {
    if (mapping.kind() != pb::Mapping::ANONYMOUS) continue;
    ASSERT_OK(RegisterWriteProtect(
        uffd.get(), {mapping.start() / 4096, (mapping.end() - mapping.start()) / 4096}));
    ++registered;
  }
  EXPECT_GT(registered, 3);
  ASSERT_OK((*restored)->Release());
  ASSERT_OK(trip.WaitForLine("tick"));
  ExpectDone(trip, SIGTERM);
}

// ---- What must not happen ----

class RestoreRefuses : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(trip_.Start({"rst_memory", trip_.directory()}));
    ASSERT_OK(trip_.WaitForLine("tick"));
    auto epoch = trip_.Checkpoint();
    ASSERT_OK(epoch.status());
    epoch_ = *epoch;
    pid_ = trip_.pid();
  }
  // The restore fails with `code` and a message that holds `word`; nothing of it is left.
  void ExpectRefusal(absl::StatusCode code, const std::string& word) {
    const bool old_one_lives = trip_.pid() != 0;
    auto restored = trip_.RestoreStopped(epoch_);
    ASSERT_FALSE(restored.ok());
    EXPECT_EQ(restored.status().code(), code) << restored.status();
    EXPECT_NE(restored.status().message().find(word), absl::string_view::npos)
        << restored.status();
    if (old_one_lives) return;
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
  }
  pb::Image Image() {
    pb::Image image;
    EXPECT_TRUE(image.ParseFromString(trip_.store().epoch(epoch_).image));
    return image;
  }
  void SetImage(const pb::Image& image) {
    trip_.store().epoch(epoch_).image = image.SerializeAsString();
  }

  RoundTrip trip_;
  uint64_t epoch_ = 0;
  pid_t pid_ = 0;
};

TEST_F(RestoreRefuses, ATakenPidAndNamesIt) {
  ExpectRefusal(absl::StatusCode::kAlreadyExists, std::to_string(pid_));
  ASSERT_OK(trip_.WaitForLine("tick"));  // The one that has it was not hurt.
}

TEST_F(RestoreRefuses, APidOfAZombie) {
  ::kill(pid_, SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, pid_, &info, WEXITED | WNOWAIT);
  ExpectRefusal(absl::StatusCode::kAlreadyExists, "rst_memory");
}

TEST_F(RestoreRefuses, APageWithAWrongHash) {
  trip_.Kill();
  trip_.store().SpoilPage(20);
  ExpectRefusal(absl::StatusCode::kDataLoss, "wrong hash");
  EXPECT_NE(access(("/proc/" + std::to_string(pid_)).c_str(), F_OK), 0);
  trip_.store().SpoilPage(-1);
  ASSERT_OK(trip_.Restore(epoch_));  // And the pid is free for the next try.
}

TEST_F(RestoreRefuses, AMappedFileThatWasReplaced) {
  trip_.Kill();
  const std::string file = trip_.directory() + "/private";
  std::filesystem::copy_file(file, file + ".new");
  std::filesystem::rename(file + ".new", file);
  ExpectRefusal(absl::StatusCode::kFailedPrecondition, file);
}

TEST_F(RestoreRefuses, AMappedFileThatWasWritten) {
  trip_.Kill();
  const std::string file = trip_.directory() + "/private";
  std::ofstream(file, std::ios::in | std::ios::out).write("x", 1);
  ExpectRefusal(absl::StatusCode::kFailedPrecondition, file);
}

TEST_F(RestoreRefuses, AMappedFileThatIsGone) {
  trip_.Kill();
  std::filesystem::remove(trip_.directory() + "/shared");
  ExpectRefusal(absl::StatusCode::kFailedPrecondition, "/shared");
}

TEST_F(RestoreRefuses, OtherCpuFeatures) {
  trip_.Kill();
  pb::Image image = Image();
  image.mutable_machine()->set_xfeatures(image.machine().xfeatures() | (1ull << 40));
  SetImage(image);
  ExpectRefusal(absl::StatusCode::kFailedPrecondition, "CPU state");
}

TEST_F(RestoreRefuses, AnotherKernelsVdso) {
  trip_.Kill();
  pb::Image image = Image();
  image.mutable_machine()->set_vdso_hash(1);
  SetImage(image);
  ExpectRefusal(absl::StatusCode::kFailedPrecondition, "another kernel");
}

TEST_F(RestoreRefuses, AnotherUsersProcess) {
  trip_.Kill();
  pb::Image image = Image();
  image.mutable_processes(0)->set_uid(12345);
  SetImage(image);
  ExpectRefusal(absl::StatusCode::kFailedPrecondition, "user 12345");
}

TEST_F(RestoreRefuses, ABrokenExtendedState) {
  trip_.Kill();
  pb::Image image = Image();
  std::string* xstate = image.mutable_processes(0)->mutable_threads(0)->mutable_xstate();
  (*xstate)[512 + 7] = '\x7f';  // state components that no CPU has
  SetImage(image);
  ExpectRefusal(absl::StatusCode::kInvalidArgument, "thread " + std::to_string(pid_));
}

TEST_F(RestoreRefuses, AnEpochThatIsNotThere) {
  auto restored = trip_.RestoreStopped(99);
  EXPECT_EQ(restored.status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RestoreRefuses, ToLeaveAnythingWhenItIsNotReleased) {
  trip_.Kill();
  {
    auto restored = trip_.RestoreStopped(epoch_);
    ASSERT_OK(restored.status());
    EXPECT_EQ((*restored)->pid(), pid_);
  }
  EXPECT_NE(access(("/proc/" + std::to_string(pid_)).c_str(), F_OK), 0);
  EXPECT_EQ(waitpid(pid_, nullptr, WNOHANG), -1);
}

TEST_F(RestoreRefuses, ToWriteASharedFileBeforeTheRestIsSure) {
  trip_.Kill();
  auto before = ReadWholeFile(trip_.directory() + "/shared");
  pb::Image image = Image();
  (*image.mutable_processes(0)->mutable_threads(0)->mutable_xstate())[512 + 7] = '\x7f';
  SetImage(image);
  ExpectRefusal(absl::StatusCode::kInvalidArgument, "thread");
  auto after = ReadWholeFile(trip_.directory() + "/shared");
  ASSERT_OK(before.status());
  ASSERT_OK(after.status());
  EXPECT_EQ(*before, *after);
}

// A shared file that differs from its epoch since: in its first page, in one that was a hole
// then (it is to be punched), and in its last.
class RestoreRefusesToWrite : public RestoreRefuses {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(RestoreRefuses::SetUp());
    trip_.Kill();
    const pb::Image image = Image();
    for (const pb::Mapping& mapping : image.processes(0).mappings()) {
      if (mapping.kind() == pb::Mapping::SHARED_FILE && mapping.end() - mapping.start() == kBytes) {
        first_page_ = mapping.start() / 4096;
      }
    }
    ASSERT_NE(first_page_, 0u);
    trip_.store().epoch(epoch_).pages.erase(first_page_ + 100);
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    for (const size_t at : {size_t{0}, size_t{100} * 4096, kBytes - 1}) {
      file.seekp(static_cast<std::streamoff>(at));
      file.write("\1later", at == kBytes - 1 ? 1 : 6);
    }
    file.close();
    before_ = Content();
    ASSERT_EQ(before_.size(), kBytes);
  }
  std::string Content() const { return ReadWholeFile(path_).value_or("unreadable"); }

  static constexpr size_t kBytes = 1 << 20;
  const std::string path_ = trip_.directory() + "/shared";
  uint64_t first_page_ = 0;
  std::string before_;
};

TEST_F(RestoreRefusesToWrite, ASharedFileOfWhichAPageIsDamaged) {
  trip_.store().DamagePage(first_page_ + kBytes / 4096 - 1);
  ExpectRefusal(absl::StatusCode::kDataLoss, "shared files: damaged page");
  EXPECT_TRUE(Content() == before_);
  trip_.store().DamagePage(UINT64_MAX);
  ASSERT_OK(trip_.RestoreStopped(epoch_).status());
  EXPECT_FALSE(Content() == before_);  // The test is one only if there was something to write.
}

TEST_F(RestoreRefusesToWrite, ASharedFileWhenTheLastStepBeforeFails) {
  RestoreOptions options;
  options.uffd_features = uint64_t{1} << 63;  // that no kernel has
  EXPECT_FALSE(trip_.RestoreStopped(epoch_, options).ok());
  EXPECT_TRUE(Content() == before_);
}

// ---- Its parent ----

class RestoreByOneThatEnds : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(trip_.Start({"rst_threads"}));
    ASSERT_OK(trip_.WaitForLine("tick"));
    auto epoch = trip_.Checkpoint();
    ASSERT_OK(epoch.status());
    epoch_ = *epoch;
    pid_ = trip_.pid();
    trip_.Kill();
    pb::Image image;
    ASSERT_TRUE(image.ParseFromString(trip_.store().epoch(epoch_).image));
    image.mutable_processes(0)->mutable_threads(0)->set_parent_death_signal(SIGUSR2);
    trip_.store().epoch(epoch_).image = image.SerializeAsString();
  }
  // A restorer that ends when the process runs; we, the subreaper, are the next parent. How many
  // warnings of a parent death signal there were.
  void Restore(const RestoreOptions& options, int* warnings) {
    const pid_t restorer = ::fork();
    if (restorer == 0) {
      auto restored = trip_.RestoreStopped(epoch_, options);
      if (!restored.ok()) ::_exit(100);
      int count = 0;
      for (const std::string& warning : (*restored)->image().warnings()) {
        count += warning.find("PR_SET_PDEATHSIG") != std::string::npos;
      }
      ::_exit((*restored)->Release().ok() ? count : 101);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(restorer, &status, 0), restorer);
    ASSERT_TRUE(WIFEXITED(status)) << status;
    *warnings = WEXITSTATUS(status);
  }

  RoundTrip trip_;
  uint64_t epoch_ = 0;
  pid_t pid_ = 0;
};

TEST_F(RestoreByOneThatEnds, LeavesOutTheParentDeathSignalAndSaysSo) {
  RestoreOptions options;
  options.outlives_caller = true;
  int warnings = -1;
  ASSERT_NO_FATAL_FAILURE(Restore(options, &warnings));
  EXPECT_EQ(warnings, 1);
  trip_.Adopt(pid_);
  ASSERT_OK(trip_.WaitForLine("tick"));
  ASSERT_OK(trip_.WaitForLine("tick"));
  ExpectDone(trip_, SIGTERM);
}

TEST_F(RestoreByOneThatEnds, InTheForegroundKeepsTheParentDeathSignal) {
  int warnings = -1;
  ASSERT_NO_FATAL_FAILURE(Restore({}, &warnings));
  EXPECT_EQ(warnings, 0);
  int status = 0;
  const int64_t deadline_us = MonotonicMicros() + 10'000'000;
  while (::waitpid(pid_, &status, WNOHANG) != pid_) {
    if (MonotonicMicros() > deadline_us) {
      trip_.Adopt(pid_);  // kills it
      FAIL() << "it has outlived its parent";
    }
    usleep(1000);
  }
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2) << status;
}

TEST_F(RestoreRefuses, DescriptorsOfOursToStayOpenInTheProcess) {
  trip_.Kill();
  ScopedFd ours(::open("/etc/passwd", O_RDONLY));
  auto restored = trip_.RestoreStopped(epoch_);  // running, it opens files of its own
  ASSERT_OK(restored.status());
  std::set<uint32_t> wanted, found;
  for (const auto& descriptor : (*restored)->image().processes(0).descriptors()) {
    wanted.insert(descriptor.fd());
  }
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/fd")) {
    found.insert(static_cast<uint32_t>(std::stoul(entry.path().filename())));
  }
  EXPECT_EQ(found, wanted);
}

}  // namespace
}  // namespace incr
