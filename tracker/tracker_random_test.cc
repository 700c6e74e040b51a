// A target that does anything to its memory, at random, for 200 epochs, some of which fail: at every
// freeze the image that the epochs add up to equals the target's memory.
//
// The seed is printed; INCR_TRACKER_SEED repeats it. INCR_TRACKER_EPOCHS: fewer or more of them.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <random>
#include <thread>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "process/kernel_abi.h"
#include "tracker/tracker_rig.h"

namespace incr {
namespace {

constexpr uint64_t kArena = 0x200000000000;
constexpr uint64_t kArenaPages = 2048;      // 4 huge pages
constexpr uint64_t kScribble = 0x220000000000;
constexpr uint64_t kFilePages = 300;

uint64_t Seed() {
  if (const char* text = std::getenv("INCR_TRACKER_SEED")) return std::strtoull(text, nullptr, 0);
  return std::random_device()();
}

int Epochs(int usual) {
  const char* text = std::getenv("INCR_TRACKER_EPOCHS");
  return text == nullptr ? usual : std::atoi(text);
}

// Gives the puppet one random command after the other. Most work, many fail: both is fine.
class RandomOperations {
 public:
  RandomOperations(TrackerRig* rig, uint64_t seed, bool alone)
      : rig_(rig), alone_(alone), random_(seed) {}

  void One() {
    const uint64_t at = Pick(kArenaPages);
    const uint64_t count = std::min(Pick(4) == 0 ? 1 + Pick(600) : 1 + Pick(40), kArenaPages - at);
    const uint64_t address = kArena + at * kPageSize;
    switch (Pick(30)) {
      case 0: case 1:
        return Run("map %lx %lx %x anon", address, count, Protection());
      case 2:
        return Run("map %lx %lx %x file %lx", address, count, Protection(), Pick(kFilePages));
      case 3:
        return Run("map %lx %lx %x shared", address, std::min<uint64_t>(count, 60), Protection());
      case 4:
        return Run("map %lx %lx %x sharedfile %lx", address, std::min<uint64_t>(count, 60),
                   Protection(), Pick(kFilePages));
      case 5: return Run("unmap %lx %lx", address, count);
      case 6: return Run("protect %lx %lx %x", address, count, Protection());
      case 7: return Run("protect %lx %lx %x", address, count, PROT_READ | PROT_WRITE);
      case 8: case 9: return Run("advise %lx %lx %x", address, count, MADV_DONTNEED);
      case 10: return Advise(address, count);
      case 11: return Move("move", address, count);
      case 12: case 24: return MoveAwayAndBack(address, count);
      case 13: return Move("leave", address, count);
      case 14: return Run("resize %lx %lx %lx", address, count, 1 + Pick(60));
      case 15: return Run("peek %lx %lx", address, count);
      case 16: return Run("brk %lx", Pick(3) == 0 ? -Pick(4) : Pick(20));
      case 17: return ForkOrReap();
      case 18: return WriteShared();
      case 19: return WriteFromOutside(address);
      case 20: return Run("sysread %lx %lx", address + Pick(4096), 1 + Pick(9000));
      case 21:
        if (Pick(6) == 0) return Run("truncate %lx %lx", kFilePages / 2 + Pick(kFilePages), Pick(4096));
        return Run("stack %lx", Pick(40));
      case 22: case 23: return Run("fill %lx %lx %lx", address, count, random_() >> 8);
      default: return Poke(address);
    }
  }

 private:
  template <typename... Args>
  void Run(const char* format, Args... arguments) {
    rig_->Try(format, arguments...);
  }
  uint64_t Pick(uint64_t n) { return random_() % n; }
  int Protection() {
    constexpr int kSome[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                             PROT_READ, PROT_NONE};
    return kSome[Pick(5)];
  }
  void Advise(uint64_t address, uint64_t count) {
    constexpr int kSome[] = {MADV_FREE,     MADV_REMOVE,        MADV_HUGEPAGE,
                             MADV_HUGEPAGE, MADV_COLLAPSE,      MADV_COLLAPSE,
                             20 /* COLD */, 21 /* PAGEOUT */,   MADV_GUARD_INSTALL,
                             MADV_GUARD_REMOVE, 22 /* POPULATE_READ */, 23 /* POPULATE_WRITE */,
                             24 /* DONTNEED_LOCKED */};
    const int advice = kSome[Pick(std::size(kSome))];
    // On shared memory a guard hides content that is still there, even from us: not supported.
    if (advice == MADV_GUARD_INSTALL) Run("map %lx %lx %x anon", address, count, Protection());
    Run("advise %lx %lx %x", address, count, advice);
  }
  void Move(const char* how, uint64_t address, uint64_t count) {
    const uint64_t target = kArena + Pick(kArenaPages - count + 1) * kPageSize;
    Run("%s %lx %lx %lx %lx", how, address, count, target, count);
  }
  // Half of the time around what came back last: what goes wrong there shows on later writes.
  void Poke(uint64_t address) {
    if (hot_ != 0 && Pick(2) == 0) address = hot_ + (Pick(16) - 8) * kPageSize;
    Run("poke %lx %lx", address + Pick(4096), Pick(256));
  }
  // Back in its place it merges with its neighbours, which do not come out of that unharmed.
  void MoveAwayAndBack(uint64_t address, uint64_t count) {
    const uint64_t aside = kArena + kArenaPages * kPageSize + Pick(3) * (8ull << 20);
    if (moved_pages_ != 0 && Pick(3) != 0) {
      Run("move %lx %lx %lx %lx", moved_to_, moved_pages_, moved_from_, moved_pages_);
      Run("fill %lx 8 %lx", moved_from_ - 8 * kPageSize, random_() >> 8);
      hot_ = moved_from_;
      moved_pages_ = 0;
      return;
    }
    moved_from_ = address;
    moved_pages_ = count;
    moved_to_ = aside;
    Run("move %lx %lx %lx %lx", address, count, aside, count);
  }
  void ForkOrReap() {
    Run(forked_ ? "reap" : "fork");
    forked_ = !forked_;
  }
  // What another process does to shared memory.
  void WriteShared() {
    const std::lock_guard<std::mutex> not_frozen(rig_->freezing());
    auto map = ReadMaps(rig_->process());
    if (!map.ok()) return;
    for (const MemoryMapping& m : *map) {
      if (ClassifyMapping(m) != MappingClass::kSharedWritable || Pick(2) == 0) continue;
      const std::string path =
          rig_->process().ProcPath(absl::StrFormat("map_files/%x-%x", m.start, m.end));
      const ScopedFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
      const uint64_t at = m.offset + Pick(m.end - m.start - 8);
      const off_t size = lseek(fd.get(), 0, SEEK_END);
      if (static_cast<off_t>(at) + 8 > size) continue;  // Others do not grow it.
      const uint64_t value = random_();
      EXPECT_EQ(pwrite(fd.get(), &value, sizeof value, at), 8);
    }
  }
  void WriteFromOutside(uint64_t address) {
    // process_vm_writev looks a page up first and writes to it later, past the page table: if the page
    // is armed again in between, the write goes unseen. So does every write by direct memory
    // access (kernel.md 10).
    if (!alone_) return;
    const std::lock_guard<std::mutex> not_frozen(rig_->freezing());
    uint64_t value = random_();
    iovec local{&value, sizeof value};
    iovec remote{reinterpret_cast<void*>(address + Pick(4080)), sizeof value};
    process_vm_writev(rig_->process().pid(), &local, 1, &remote, 1, 0);
  }

  TrackerRig* const rig_;
  const bool alone_;  // nothing goes on at the same time
  std::mt19937_64 random_;
  bool forked_ = false;
  uint64_t moved_from_ = 0, moved_to_ = 0, moved_pages_ = 0, hot_ = 0;
};

class TrackerRandomTest : public ::testing::TestWithParam<BackEnd> {
 protected:
  void SetUp() override {
    if (const absl::Status works = GetParam().Works(); !works.ok()) GTEST_SKIP() << works;
    seed_ = Seed();
    std::printf("INCR_TRACKER_SEED=%lu\n", seed_);
    rig_.emplace(GetParam(), kFilePages * kPageSize + 100);
    rig_->Do("map %lx 40 3 anon", kScribble);
  }
  void TearDown() override {
    if (rig_) rig_->Try("calm");
  }
  TrackerRig::EpochOptions RandomOptions(std::mt19937_64& random) {
    TrackerRig::EpochOptions options;
    options.running_rounds = random() % 4;
    options.arm_new = random() % 4 == 0;
    options.fail = random() % 5 == 0;
    options.deep = random() % 8 == 0;
    return options;
  }
  bool FailedAt(int epoch) {
    if (!HasFailure()) return false;
    ADD_FAILURE() << "at epoch " << epoch << " of seed " << seed_;
    return true;
  }

  uint64_t seed_ = 0;
  std::optional<TrackerRig> rig_;
};

INSTANTIATE_TEST_SUITE_P(BackEnds, TrackerRandomTest, ::testing::ValuesIn(AllBackEnds()),
                         [](const auto& info) { return info.param.name; });

// One thing after the other: a failure repeats with its seed.
TEST_P(TrackerRandomTest, TheImageIsTheMemoryAfterAnything) {
  std::mt19937_64 random(seed_);
  RandomOperations operations(&*rig_, seed_ + 1, /*alone=*/true);
  rig_->Arm();
  for (int epoch = 1, epochs = Epochs(200); epoch <= epochs; ++epoch) {
    for (int i = random() % 20; i > 0; --i) operations.One();
    rig_->Epoch(RandomOptions(random));
    if (FailedAt(epoch)) return;
  }
}

// All at once: mappings come and go, and a thread writes at full speed, between and during Takes.
TEST_P(TrackerRandomTest, TheImageIsTheMemoryWhileEverythingMoves) {
  std::mt19937_64 random(seed_);
  rig_->Do("scribble %lx 40", kScribble);
  rig_->Arm();
  std::atomic<bool> stop{false};
  std::thread commander([&] {
    RandomOperations operations(&*rig_, seed_ + 1, /*alone=*/false);
    while (!stop) operations.One();
  });
  // Comparing is slow where a thread writes and others want the processor too.
  const int epochs = Epochs(GetParam().compares() ? 40 : 120);
  for (int epoch = 1; epoch <= epochs && !HasFailure(); ++epoch) {
    rig_->Epoch(RandomOptions(random));
    if (FailedAt(epoch)) break;
  }
  stop = true;
  commander.join();
}

}  // namespace
}  // namespace incr
