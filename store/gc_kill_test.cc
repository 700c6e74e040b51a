// A child runs gc and dies at every fault point, and by SIGKILL at random moments, while it also writes
// epochs. Every kept epoch must be there afterwards, byte for byte, and gc can be run again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <thread>

#include "base/fault_point.h"
#include "store/remake_index.h"
#include "store/self_child.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

constexpr uint64_t kPages = 400, kKept = 3;

void Apply(uint64_t epoch, ModelTable* model) {
  std::mt19937_64 random(epoch * 7919);
  for (int n = epoch == 1 ? kPages : 60; n > 0; --n) {
    (*model)[{0, random() % kPages}] = random() % 3000;
  }
}

std::string ImageOf(uint64_t epoch) { return std::string(epoch * 37 % 5000, char('a' + epoch % 26)); }

StoreOptions Options() {
  StoreOptions options;
  options.create_if_missing = true;
  options.workers = 2;
  options.full_table_every = 7;
  options.pack_bytes = 256 << 10;
  return options;
}

absl::Status WriteEpoch(Store& store, uint64_t parent) {
  INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch("job", parent));
  INCR_CHECK(writer->epoch() == parent + 1);
  ModelTable changes;
  Apply(parent + 1, &changes);
  for (const auto& [place, seed] : changes) {
    INCR_RETURN_IF_ERROR(writer->AddPages(0, {place.second, 1}, MakePage(seed).data()));
  }
  return writer->Commit({}, ImageOf(parent + 1)).status();
}

uint64_t HeadOf(const StoreReader& store) {
  const auto records = store.ListEpochs("job");
  return records.ok() ? records->back().epoch() : 0;
}

// The child: epochs, gc, more epochs beside gc. Acknowledges epochs through `fd`.
int RunChild(const std::string& path, const std::string& faults, int fd, bool beside) {
  auto store = Store::Open(path, Options());
  if (!store.ok()) return 3;
  uint64_t head = HeadOf(**store);
  const auto write = [&](int epochs) {
    for (; epochs > 0; --epochs, ++head) {
      if (!WriteEpoch(**store, head).ok()) return false;
      const uint64_t done = head + 1;
      if (::write(fd, &done, sizeof done) != sizeof done) return false;
    }
    return true;
  };
  if (!write(12)) return 4;
  ArmFaultPoints(faults);
  GcOptions options;
  options.policy.keep_last = kKept;
  options.recompress_zstd = head % 2 == 0;
  std::thread writer;
  if (beside) writer = std::thread([&] { write(30); });
  const auto collected = (*store)->CollectGarbage(options);
  if (writer.joinable()) writer.join();
  if (!collected.ok()) std::fprintf(stderr, "child: %s\n", collected.status().ToString().c_str());
  return collected.ok() ? 0 : 5;
}

class GcKillTest : public ::testing::Test {
 protected:
  // Returns the child's wait status.
  int Child(const std::string& faults, int kill_after_us, bool beside) {
    SelfChild child({"--child", path_, faults, std::to_string(SelfChild::kReportFd), beside ? "beside" : "alone"});
    if (kill_after_us > 0) {
      ::usleep(kill_after_us);
      child.Kill();
    }
    uint64_t epoch;
    while (child.Receive(&epoch)) acknowledged_ = epoch;
    return child.Wait();
  }

  void Compare(const StoreReader& store) {
    const auto records = store.ListEpochs("job");
    ASSERT_TRUE(records.ok()) << records.status();
    ASSERT_GE(records->back().epoch(), acknowledged_) << "an acknowledged epoch is lost";
    ASSERT_GE(records->size(), kKept);
    for (size_t i = 0; i < kKept; ++i) {
      ASSERT_EQ((*records)[records->size() - 1 - i].epoch(), records->back().epoch() - i);
    }
    ModelTable model;
    uint64_t at = 0;
    for (const pb::EpochRecord& record : *records) {
      while (at < record.epoch()) Apply(++at, &model);
      ASSERT_EQ(Difference(store, "job", at, model), "") << "epoch " << at;
      ASSERT_EQ(store.ReadImage("job", at).value_or("?"), ImageOf(at));
    }
  }

  void CheckAndCollectAgain() {
    auto store = Store::Open(path_, Options());
    ASSERT_TRUE(store.ok()) << store.status();
    Compare(**store);
    if (HasFatalFailure()) return;
    // What goes on from there must not lean on anything that is gone.
    for (int n = 0; n < 3; ++n) ASSERT_TRUE(WriteEpoch(**store, HeadOf(**store)).ok());
    Compare(**store);
    if (HasFatalFailure()) return;
    if (++checks_ % 4 != 0) return;  // Mostly the next child finds the remains.
    GcOptions options;
    options.policy.keep_last = kKept;
    auto collected = (*store)->CollectGarbage(options);
    ASSERT_TRUE(collected.ok()) << collected.status();
    EXPECT_EQ((*store)->ListEpochs("job")->size(), kKept);
    EXPECT_LT(collected->bytes_after, 3'000'000) << "remains are left for ever";
    Compare(**store);
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  uint64_t acknowledged_ = 0;
  int checks_ = 0;
};

TEST_F(GcKillTest, KeptEpochsSurviveAKillAtEveryFaultPoint) {
  for (const char* point :
       {"store.gc_after_manifest", "store.gc_before_unpublish", "store.gc_after_unpublish",
        "store.gc_after_orphans", "store.gc_after_mark", "store.gc_in_sweep", "store.gc_after_sweep",
        "store.gc_before_delete", "store.gc_after_forget", "store.gc_after_unlink",
        "store.gc_after_copy", "store.gc_after_move", "store.kv_write", "store.pack_sync",
        "store.after_pack_write"}) {
    for (const int passage : {1, 2}) {
      for (const char* action : {"kill", "error"}) {
        const std::string faults =
            std::string(point) + "=" + action + ":" + std::to_string(passage);
        SCOPED_TRACE(faults);
        const int status = Child(faults, 0, /*beside=*/false);
        if (std::string(action) == "kill") {
          // Some are passed once only.
          ASSERT_TRUE(WIFSIGNALED(status) || (passage == 2 && status == 0)) << status;
        } else {
          ASSERT_TRUE(WIFEXITED(status)) << status;
          ASSERT_TRUE(WEXITSTATUS(status) == 5 || (passage == 2 && status == 0)) << status;
        }
        CheckAndCollectAgain();
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(GcKillTest, KeptEpochsSurviveAKillAtAnyMoment) {
  std::mt19937 random(20240229);
  for (int round = 0; round < 30; ++round) {
    SCOPED_TRACE(round);
    (void)Child("", 20'000 + random() % 400'000, /*beside=*/true);
    if (acknowledged_ < kKept) continue;  // Killed before it had begun.
    CheckAndCollectAgain();
    if (HasFailure()) return;
  }
  EXPECT_GT(acknowledged_, 80) << "too slow to show anything";
  auto remade = RemakeIndex(path_);
  ASSERT_TRUE(remade.ok()) << remade.status();
  EXPECT_EQ(remade->bodies_lost, 0);
  EXPECT_TRUE(remade->dropped.empty());
  CheckAndCollectAgain();
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--child") {
    return incr::RunChild(argv[2], argv[3], std::atoi(argv[4]), std::string(argv[5]) == "beside");
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
