// The centre of the contract suite: a target that does everything to its memory (testdata/targets/
// trk_torture.h), in threads, while epochs are taken. At every freeze the image that the epochs add
// up to is compared byte for byte with the target's memory.
//
//   INCR_TRACKER          one back end
//   INCR_TRACKER_SEED     repeats a run
//   INCR_TRACKER_EPOCHS   100 unless given; README.md has the long mode
//   INCR_TRACKER_PINNED   lets writes past the page tables happen while rounds run, too: shows the
//                         known exception (README.md), by failing
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tracker/torture_machine.h"
#include "tracker/tracker_rig.h"

namespace incr {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 0) : otherwise;
}

void SetKsm(const char* run) {
  const ScopedFd fd(::open("/sys/kernel/mm/ksm/run", O_WRONLY | O_CLOEXEC));
  if (fd.ok()) {
    EXPECT_EQ(::write(fd.get(), run, 1), 1);
  }
}

// Keeps the writers that ptrace does not stop from writing.
class Gate {
 public:
  explicit Gate(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {}
  ~Gate() { ::unlink(path_.c_str()); }
  void Close() { EXPECT_EQ(::flock(fd_.get(), LOCK_EX), 0); }
  void Open() { EXPECT_EQ(::flock(fd_.get(), LOCK_UN), 0); }

 private:
  const std::string path_;
  const ScopedFd fd_;
};

class TrackerTortureTest : public ::testing::TestWithParam<BackEnd> {
 public:
  static void SetUpTestSuite() {
    machine_ = std::make_unique<TortureMachine>();
    for (const std::string& what : machine_->missing()) {
      std::printf("SKIPPED, not to be had here: %s\n", what.c_str());
    }
  }
  static void TearDownTestSuite() { machine_.reset(); }

 protected:
  void SetUp() override {
    if (const absl::Status works = GetParam().Works(); !works.ok()) GTEST_SKIP() << works;
    seed_ = FromEnvironment("INCR_TRACKER_SEED", std::random_device()());
    epochs_ = FromEnvironment("INCR_TRACKER_EPOCHS", 100);
    std::printf("INCR_TRACKER_SEED=%lu\n", seed_);
    std::fflush(stdout);
    random_.seed(seed_);
    own_uffd_ = random_() % 2 == 0;
    // A page that KSM merged, and that is unmerged onto its old frame in the same epoch, shows soft-dirty
    // nothing at all (README): so not with KSM. 2: what was merged is taken apart.
    if (GetParam().soft_dirty()) SetKsm("2");
    rig_.emplace(GetParam(), kPageSize, "testdata/targets/trk_torture");
    rounds_.emplace(rig_->file() + ".rounds");
    freeze_.emplace(rig_->file() + ".freeze");
    rig_->set_still([this](bool still) { still ? freeze_->Close() : freeze_->Open(); });
  }
  void TearDown() override {
    if (!rig_) return;
    if (GetParam().soft_dirty()) SetKsm("1");
    std::fflush(stdout);
    if (HasFailure()) rig_->Try("trail");
    rig_->Try("report");
    const std::string file = rig_->file();
    rig_.reset();
    ::unlink((file + ".direct").c_str());
  }

  void Start(int threads) {
    rig_->Do("prepare %lx %x %d", seed_, threads, own_uffd_);
    rig_->Arm();
  }

  // One epoch of any kind. False: the test has failed, and said so.
  bool Epoch(uint64_t number) {
    TrackerRig::EpochOptions options;
    options.running_rounds = random_() % 4;
    options.arm_new = random_() % 4 == 0;
    options.fail = random_() % 5 == 0;
    // Reading what nothing populated waits for the target's userfaultfd.
    options.deep = !own_uffd_ && random_() % 8 == 0;
    const bool hold_pinned = options.running_rounds > 0 && !std::getenv("INCR_TRACKER_PINNED");
    if (hold_pinned) rounds_->Close();
    rig_->Epoch(options);
    if (hold_pinned) rounds_->Open();
    if (!HasFailure()) return true;
    ADD_FAILURE() << "at epoch " << number << " of INCR_TRACKER_SEED=" << seed_;
    return false;
  }

  static std::unique_ptr<TortureMachine> machine_;
  uint64_t seed_ = 0;
  uint64_t epochs_ = 0;
  bool own_uffd_ = false;
  std::mt19937_64 random_;
  std::optional<TrackerRig> rig_;
  std::optional<Gate> rounds_, freeze_;
};
std::unique_ptr<TortureMachine> TrackerTortureTest::machine_;

INSTANTIATE_TEST_SUITE_P(BackEnds, TrackerTortureTest, ::testing::ValuesIn(AllBackEnds()),
                         [](const auto& info) { return info.param.name; });

// One operation after the other: a failure repeats with its seed.
TEST_P(TrackerTortureTest, TheImageIsTheMemoryAfterEveryStep) {
  Start(1);
  for (uint64_t epoch = 1; epoch <= epochs_; ++epoch) {
    rig_->Do("step %lx", random_() % 40);
    rig_->Do("help %lx", random_() % 4);
    if (!Epoch(epoch)) return;
  }
}

// All at once, between and during the Takes.
TEST_P(TrackerTortureTest, TheImageIsTheMemoryWhileThreadsDoEverything) {
  Start(3);
  rig_->Do("run");
  for (uint64_t epoch = 1; epoch <= epochs_; ++epoch) {
    if (epoch % 50 == 25) machine_->Compact();
    ::usleep(random_() % 20'000);
    if (!Epoch(epoch)) break;
  }
  // A guard over a tracked file waits for a freeze.
  std::atomic<bool> halted{false};
  std::thread halt([&] {
    rig_->Do("halt");
    halted = true;
  });
  while (!halted) {
    ::usleep(10'000);
    rig_->Epoch();
  }
  halt.join();
  const long done = rig_->Do("done");
  std::printf("%lu epochs, %ld operations\n", epochs_, done);
  EXPECT_GT(done, static_cast<long>(epochs_));
}

}  // namespace
}  // namespace incr
