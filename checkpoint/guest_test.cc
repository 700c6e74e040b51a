// A session on targets that others are at work on, or that are hard to stop: every epoch is right or an
// error that says what is in the way, the target is never left stopped, and nothing is lost afterwards.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "checkpoint/memory_oracle.h"
#include "checkpoint/session.h"
#include "gtest/gtest.h"
#include "process/process_handle.h"
#include "store/store.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

bool Eventually(const std::function<bool()>& condition, int timeout_ms = 20'000) {
  const Stopwatch watch;
  while (!condition()) {
    if (watch.elapsed_us() > int64_t{timeout_ms} * 1000) return false;
    usleep(2'000);
  }
  return true;
}

// testdata/targets/gst_guest, killed and reaped by pid at the end.
class Guest {
 public:
  Guest(const std::string& directory, std::vector<std::string> arguments)
      : progress_(absl::StrCat(directory, "/progress-", MonotonicMicros())) {
    arguments.insert(arguments.begin(), "testdata/targets/gst_guest");
    arguments.insert(arguments.begin() + 2, progress_);
    pid_ = fork();
    if (pid_ == 0) {
      const int null = open("/dev/null", O_RDWR);
      for (int fd : {0, 1, 2}) dup2(null, fd);
      close_range(3, ~0u, 0);
      std::vector<char*> argv;
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    EXPECT_TRUE(Eventually([&] { return Step() > 0; })) << Said();
  }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;
  ~Guest() { Kill(); }

  void Kill() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }
  std::string Said() const { return ReadWholeFile(progress_).value_or(""); }
  // Of its work, which it verifies; -1 if something was wrong.
  int64_t Step() const {
    const std::string said = Said();
    return absl::StrContains(said, "BAD") ? -1 : atoll(said.c_str());
  }
  void ExpectItGoesOn(const std::string& when, int steps = 5) const {
    const int64_t before = Step();
    ASSERT_GE(before, 0) << when << ": " << Said();
    int64_t now = before;
    EXPECT_TRUE(Eventually([&] { return (now = Step()) < 0 || now >= before + steps; })) << when;
    EXPECT_GE(now, 0) << when << ": " << Said();
  }
  char State() const {
    const std::string stat = ReadWholeFile(absl::StrCat("/proc/", pid_, "/stat")).value_or("");
    const size_t end = stat.rfind(')');
    return end == std::string::npos ? '?' : stat[end + 2];
  }

 private:
  const std::string progress_;
  pid_t pid_ = 0;
};

// Another tracer of `pid`, which does nothing but be there.
class Tracer {
 public:
  explicit Tracer(pid_t pid) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const char answer = ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) == 0 ? 'y' : 'n';
      if (write(ready[1], &answer, 1) != 1) _exit(1);
      for (;;) pause();
    }
    char answer = 'n';
    EXPECT_EQ(read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    close(ready[0]);
    close(ready[1]);
  }
  ~Tracer() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

// A session and what its epochs must hold.
struct Tracked {
  std::unique_ptr<Store> store;
  std::unique_ptr<ProcessHandle> handle;
  std::unique_ptr<CheckpointSession> session;
  std::shared_ptr<OracleImage> last = std::make_shared<OracleImage>();

  // One epoch, held against all of memory as it was in the freeze.
  absl::StatusOr<EpochResult> Epoch() {
    auto result = session->TakeEpoch();
    if (!result.ok()) return result;
    const absl::Status same = CompareWithOracle(*store, "job", result->record.epoch(), *last);
    if (!same.ok()) return absl::DataLossError(same.message());
    return result;
  }
};

class GuestTest : public testing::Test {
 protected:
  GuestTest() {
    directory_ = absl::StrCat(testing::TempDir(), "/guest-", getpid(), "-", MonotonicMicros());
    fs::create_directories(directory_);
  }
  ~GuestTest() override {
    ArmFaultPoints("");
    fs::remove_all(directory_);
  }

  absl::StatusOr<Tracked> Track(pid_t pid, const std::string& tracker, bool allow_unsupported = false) {
    Tracked tracked;
    StoreOptions store_options;
    store_options.create_if_missing = true;
    auto store = Store::Open(absl::StrCat(directory_, "/store-", MonotonicMicros()), store_options);
    if (!store.ok()) return store.status();
    tracked.store = *std::move(store);
    auto handle = ProcessHandle::Open(pid);
    if (!handle.ok()) return handle.status();
    tracked.handle = std::make_unique<ProcessHandle>(*std::move(handle));
    SessionOptions options;
    options.job = "job";
    options.tracker = tracker;
    options.allow_unsupported = allow_unsupported;
    options.arm_first_pages = 64;
    options.agent_command = {"checkpoint/agent_main"};
    options.while_frozen = [process = tracked.handle.get(), last = tracked.last] {
      auto oracle = ReadOracle(*process);
      if (oracle.ok()) *last = *std::move(oracle);  // else: killed, and then there is no epoch
    };
    auto session = CheckpointSession::Start(tracked.store.get(), pid, options);
    if (!session.ok()) return session.status();
    tracked.session = *std::move(session);
    return tracked;
  }

  std::string directory_;
};

bool Mentions(const std::vector<std::string>& warnings, absl::string_view text) {
  return std::any_of(warnings.begin(), warnings.end(),
                     [&](const std::string& w) { return absl::StrContains(w, text); });
}

class EveryTracker : public GuestTest, public testing::WithParamInterface<std::string> {};

TEST_P(EveryTracker, AnotherTracerAtTheStartIsNamed) {
  Guest guest(directory_, {"plain"});
  const Tracer tracer(guest.pid());
  const absl::Status status = Track(guest.pid(), GetParam()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), absl::StrCat("traced by pid ", tracer.pid()))) << status;
  guest.ExpectItGoesOn("after the refusal");
}

TEST_P(EveryTracker, AnotherTracerInBetweenCostsTheEpochsMeanwhileAndNoWrite) {
  Guest guest(directory_, {"plain"});
  auto tracked = Track(guest.pid(), GetParam());
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
  for (uint64_t round = 0; round < 3; ++round) {
    {
      const Tracer tracer(guest.pid());
      for (int i = 0; i < 2; ++i) {
        const absl::Status status = tracked->Epoch().status();
        EXPECT_FALSE(status.ok());
        EXPECT_TRUE(absl::StrContains(status.message(), absl::StrCat("traced by pid ", tracer.pid())))
            << status;
        guest.ExpectItGoesOn("while another traces it");
      }
    }
    auto result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    // Tracking went on: no full epoch.
    EXPECT_EQ(result->record.parent(), round + 1);
  }
  guest.ExpectItGoesOn("at the end");
}

TEST_P(EveryTracker, AStoppedProcessIsTrackedAndStaysStopped) {
  Guest guest(directory_, {"plain"});
  kill(guest.pid(), SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return guest.State() == 'T'; }));
  auto tracked = Track(guest.pid(), GetParam());
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
    EXPECT_TRUE(Eventually([&] { return guest.State() == 'T'; })) << guest.State();
  }
  kill(guest.pid(), SIGCONT);
  guest.ExpectItGoesOn("after SIGCONT");
  ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
  kill(guest.pid(), SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return guest.State() == 'T'; }));
  auto result = tracked->Epoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->record.parent(), 4u);
  EXPECT_TRUE(Eventually([&] { return guest.State() == 'T'; })) << guest.State();
  kill(guest.pid(), SIGCONT);
  guest.ExpectItGoesOn("after the second SIGCONT");
}

// Its parent cannot be stopped (state D) until the child is done.
TEST_P(EveryTracker, InAVforkTheEpochFailsAndSaysWhyAndALaterOneWorks) {
  Guest guest(directory_, {"vfork", "4500"});
  auto tracked = Track(guest.pid(), GetParam(), /*allow_unsupported=*/true);
  const Stopwatch start;
  while (!tracked.ok() && start.elapsed_us() < 30'000'000) {
    EXPECT_TRUE(absl::StrContains(tracked.status().message(), "vfork")) << tracked.status();
    tracked = Track(guest.pid(), GetParam(), /*allow_unsupported=*/true);
  }
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  int failed = 0;
  absl::Status status;
  for (const Stopwatch watch; watch.elapsed_us() < 40'000'000;) {
    status = tracked->Epoch().status();
    if (status.ok()) {
      if (failed > 0) break;
      usleep(50'000);
      continue;
    }
    ++failed;
    EXPECT_TRUE(absl::StrContains(status.message(), "vfork child")) << status;
    EXPECT_NE(guest.State(), 't');  // D as before, or S once the child is done
  }
  EXPECT_GT(failed, 0);
  EXPECT_TRUE(status.ok()) << status;
  guest.ExpectItGoesOn("after a vfork that was in the way", 1);
}

TEST_P(EveryTracker, FiveHundredThreads) {
  Guest guest(directory_, {"threads", "500"});
  auto tracked = Track(guest.pid(), GetParam());
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  std::vector<uint64_t> frozen;
  for (int i = 0; i < 8; ++i) {
    auto result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    frozen.push_back(result->record.stats().frozen_us());
    guest.ExpectItGoesOn("between epochs", 2);
  }
  // The oracle's reading is in there.
  printf("FIGURES 500 threads, %s: frozen %s us\n", GetParam().c_str(), absl::StrJoin(frozen, " ").c_str());
}

TEST_P(EveryTracker, ASeccompFilterIsNamedOrAllowedAndNeverSprung) {
  Guest guest(directory_, {"seccomp"});
  {
    auto tracked = Track(guest.pid(), GetParam());
    ASSERT_TRUE(tracked.ok()) << tracked.status();
    const absl::Status status = tracked->Epoch().status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "seccomp")) << status;
    guest.ExpectItGoesOn("after the refusal");
  }
  auto tracked = Track(guest.pid(), GetParam(), /*allow_unsupported=*/true);
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  for (int i = 0; i < 10; ++i) {
    auto result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(Mentions(result->warnings, "seccomp"));
    guest.ExpectItGoesOn("under its filter", 2);
  }
}

TEST_P(EveryTracker, StrictSeccompIsNoObstacle) {
  Guest guest(directory_, {"strict"});
  auto tracked = Track(guest.pid(), GetParam(), /*allow_unsupported=*/true);
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  for (int i = 0; i < 10; ++i) {
    const size_t before = guest.Said().size();
    ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
    EXPECT_TRUE(Eventually([&] { return guest.Said().size() > before; }));
  }
  EXPECT_FALSE(absl::StrContains(guest.Said(), "BAD"));
}

// The kernel writes there, never the program.
TEST_P(EveryTracker, WhatReadWritesIsInTheNextEpoch) {
  Guest guest(directory_, {"reader"});
  auto tracked = Track(guest.pid(), GetParam());
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
    guest.ExpectItGoesOn("between epochs", 2);
  }
}

// At any moment, of the freeze or of the pre-copy.
TEST_P(EveryTracker, KilledAtAnyMomentIsNotFoundAndLeavesWholeEpochs) {
  std::minstd_rand random(17);
  for (int round = 0; round < 30; ++round) {
    Guest guest(directory_, {"churn"});
    auto tracked = Track(guest.pid(), GetParam());
    ASSERT_TRUE(tracked.ok()) << tracked.status();
    ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
    const useconds_t delay = random() % 60'000;
    std::thread killer([&] {
      usleep(delay);
      kill(guest.pid(), SIGKILL);
    });
    absl::Status status;
    uint64_t epochs = 1;
    const Stopwatch watch;
    for (; status.ok(); ++epochs) status = tracked->Epoch().status();
    killer.join();
    EXPECT_TRUE(absl::IsNotFound(status)) << status << " in round " << round;
    EXPECT_LT(watch.elapsed_us(), 10'000'000);
    auto listed = tracked->store->ListEpochs("job");
    ASSERT_TRUE(listed.ok());
    EXPECT_EQ(listed->size(), epochs - 1);
    // Its parent, which we are, learns how it ended: no tracer is in between.
    int end = 0;
    EXPECT_TRUE(Eventually([&] { return waitpid(guest.pid(), &end, WNOHANG | WNOWAIT) != 0; }));
  }
}

TEST_P(EveryTracker, ExecAtAnyMomentCostsFullEpochsAndNoWrite) {
  Guest guest(directory_, {"exec", "1"});
  auto tracked = Track(guest.pid(), GetParam());
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  int good = 0;
  for (int i = 0; i < 150; ++i) {
    const absl::Status status = tracked->Epoch().status();
    good += status.ok();
    ASSERT_FALSE(absl::IsDataLoss(status)) << status;
    ASSERT_EQ(kill(guest.pid(), 0), 0) << status;
  }
  EXPECT_GT(good, 2);  // how many depends on how busy the machine is
  guest.ExpectItGoesOn("at the end");
}

TEST_P(EveryTracker, AProgramThatTracksItselfIsNotDisturbed) {
  Guest guest(directory_, {"uffd"});
  {
    auto tracked = Track(guest.pid(), GetParam());
    ASSERT_TRUE(tracked.ok()) << tracked.status();
    const absl::Status status = tracked->Epoch().status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "userfaultfd")) << status;
    guest.ExpectItGoesOn("after the refusal");
  }
  auto tracked = Track(guest.pid(), GetParam(), /*allow_unsupported=*/true);
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  bool warned = false;
  for (int i = 0; i < 60; ++i) {
    auto result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LT(result->record.stats().frozen_us(), 2e6) << "it waited for a fault handler that stands still";
    warned |= Mentions(result->warnings, "another userfaultfd has it");
    guest.ExpectItGoesOn("between epochs", 1);
  }
  EXPECT_EQ(warned, GetParam() != "compare");
}

INSTANTIATE_TEST_SUITE_P(Trackers, EveryTracker, testing::Values("uffd-wp-async", "compare"),
                         [](const auto& info) { return info.param == "compare" ? "compare" : "uffd"; });

// Whoever uses userfaultfd would find our registrations in its way: by default it finds none.
TEST_F(GuestTest, AProgramWithUserfaultfdsIsComparedUnlessAskedOtherwise) {
  Guest guest(directory_, {"uffd"});
  auto tracked = Track(guest.pid(), "", /*allow_unsupported=*/true);
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  auto result = tracked->Epoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->record.tracker(), "compare");
  EXPECT_TRUE(Mentions(result->warnings, "uses userfaultfd itself")) << absl::StrJoin(result->warnings, "\n");
}

// Both arm pages; without care each would take the other's writes.
TEST_F(GuestTest, TwoTrackersOfOneProcessLoseNothing) {
  Guest guest(directory_, {"churn"});
  auto one = Track(guest.pid(), "uffd-wp-async");
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_EQ(one->Epoch().status(), absl::OkStatus());
  auto two = Track(guest.pid(), "uffd-wp-async");
  ASSERT_TRUE(two.ok()) << two.status();
  std::minstd_rand random(3);
  bool warned = false;
  for (int i = 0; i < 80; ++i) {
    Tracked& next = random() % 2 == 0 ? *one : *two;
    auto result = next.Epoch();
    ASSERT_TRUE(result.ok()) << result.status() << " of " << (&next == &*one ? "one" : "two");
    warned |= Mentions(result->warnings, "another userfaultfd has it");
  }
  EXPECT_TRUE(warned);
  // The first ends; the second now has all to itself.
  one->session.reset();
  ASSERT_EQ(two->Epoch().status(), absl::OkStatus());
  guest.ExpectItGoesOn("alone");
  kill(guest.pid(), SIGSTOP);
  ASSERT_EQ(two->Epoch().status(), absl::OkStatus());
  auto result = two->Epoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->warnings.empty()) << absl::StrJoin(result->warnings, "\n");
  EXPECT_LT(result->record.stats().pages_written(), 100u);  // its copies of libraries' data
}

// --- a tracker that fails in mid-life ---

TEST_F(GuestTest, ATrackerThatCannotAttachIsReplacedAndSaidSo) {
  Guest guest(directory_, {"churn"});
  ArmFaultPoints("tracker.attach=error");
  auto tracked = Track(guest.pid(), "");
  ArmFaultPoints("");
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  EXPECT_EQ(tracked->session->tracker_name(), "compare");
  auto result = tracked->Epoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(Mentions(result->warnings, "uffd-wp-async has failed")) << absl::StrJoin(result->warnings, "\n");
  EXPECT_EQ(result->record.tracker(), "compare");
  result = tracked->Epoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->warnings.empty()) << absl::StrJoin(result->warnings, "\n");
  EXPECT_EQ(result->record.parent(), 1u);
}

TEST_F(GuestTest, ATrackerThatWasAskedForAndCannotAttachIsAnError) {
  Guest guest(directory_, {"plain"});
  ArmFaultPoints("tracker.attach=error");
  EXPECT_FALSE(Track(guest.pid(), "uffd-wp-async").ok());
  guest.ExpectItGoesOn("after the refusal");
}

class FailingTake : public GuestTest, public testing::WithParamInterface<std::string> {};

// Of what was armed before nothing is believed.
TEST_P(FailingTake, CostsOneEpochAndTheNextIsFull) {
  Guest guest(directory_, {"churn"});
  auto tracked = Track(guest.pid(), "uffd-wp-async");
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
  ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
  for (int round = 0; round < 3; ++round) {
    ArmFaultPoints(GetParam() + "=error:1");
    EXPECT_FALSE(tracked->Epoch().ok());
    ArmFaultPoints("");
    guest.ExpectItGoesOn("after the failed epoch");
    auto result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->record.parent(), 0u);
    EXPECT_EQ(result->record.tracker(), "uffd-wp-async");
    EXPECT_TRUE(Mentions(result->warnings, "began anew")) << absl::StrJoin(result->warnings, "\n");
    const uint64_t full = result->record.epoch();
    result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->record.parent(), full);
    EXPECT_TRUE(result->warnings.empty()) << absl::StrJoin(result->warnings, "\n");
  }
}

TEST_P(FailingTake, AgainAndAgainMeansTheNextBackEnd) {
  Guest guest(directory_, {"churn"});
  auto tracked = Track(guest.pid(), "uffd-wp-async");
  ASSERT_TRUE(tracked.ok()) << tracked.status();
  ASSERT_EQ(tracked->Epoch().status(), absl::OkStatus());
  ArmFaultPoints(GetParam() + "=error");
  int failed = 0;
  absl::StatusOr<EpochResult> result = tracked->Epoch();
  for (; !result.ok() && failed < 5; ++failed) result = tracked->Epoch();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LE(failed, 2);
  EXPECT_EQ(result->record.parent(), 0u);
  EXPECT_NE(result->record.tracker(), "uffd-wp-async");
  EXPECT_EQ(tracked->session->tracker_name(), result->record.tracker());
  EXPECT_TRUE(Mentions(result->warnings, "has failed and is not used any more"))
      << absl::StrJoin(result->warnings, "\n");
  for (int i = 0; i < 5; ++i) {
    result = tracked->Epoch();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NE(result->record.parent(), 0u);
  }
  guest.ExpectItGoesOn("at the end");
}

INSTANTIATE_TEST_SUITE_P(Points, FailingTake, testing::Values("tracker.take", "tracker.take_running"),
                         [](const auto& info) {
                           return info.param == "tracker.take" ? "Frozen" : "Running";
                         });

}  // namespace
}  // namespace incr
