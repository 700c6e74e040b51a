// A child process writes epochs and dies: at every fault point, and by SIGKILL at random moments.
// What it acknowledged through a pipe before must read back, byte for byte; what it did not
// acknowledge is there whole or not at all.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "base/fault_point.h"
#include "base/file.h"
#include "store/remake_index.h"
#include "store/self_child.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

constexpr char kJob[] = "killed";
constexpr uint64_t kPages = 1500;

struct Changes {
  std::vector<std::pair<uint64_t, uint64_t>> written;  // page, seed
  std::vector<PageRange> gone;
};

// What epoch `epoch` does: known to the child that does it and to the parent that checks it.
Changes ChangesOf(uint64_t epoch) {
  std::mt19937_64 random(epoch * 7919);
  Changes changes;
  if (epoch > 1 && random() % 3 == 0) changes.gone.push_back({random() % kPages, random() % 40});
  const uint64_t runs = epoch == 1 ? kPages / 10 : 1 + random() % 12;
  for (uint64_t run = 0; run < runs; ++run) {
    const uint64_t first = random() % kPages;
    for (uint64_t page = first; page < first + 1 + random() % 30; ++page) {
      // Seeds repeat across epochs: deduplication against what an unlucky epoch wrote.
      changes.written.emplace_back(page, random() % 5000);
    }
  }
  return changes;
}

void Apply(const Changes& changes, ModelTable* model) {
  for (const PageRange& gone : changes.gone) {
    model->erase(model->lower_bound({0, gone.first}), model->lower_bound({0, gone.end()}));
  }
  for (const auto& [page, seed] : changes.written) (*model)[{0, page}] = seed;
}

std::string ImageOf(uint64_t epoch) { return std::string(epoch % 5000, char('a' + epoch % 26)); }

absl::Status WriteOne(Store& store, uint64_t parent) {
  INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch(kJob, parent));
  INCR_CHECK(writer->epoch() == parent + 1);
  const Changes changes = ChangesOf(writer->epoch());
  for (const PageRange& gone : changes.gone) INCR_RETURN_IF_ERROR(writer->AddGone(0, gone));
  for (const auto& [page, seed] : changes.written) {
    INCR_RETURN_IF_ERROR(writer->AddPages(0, {page, 1}, MakePage(seed).data()));
  }
  return writer->Commit({}, ImageOf(writer->epoch())).status();
}

// The child: epochs until it is killed, or `epochs` are done. Acknowledges the head it finds, then
// every epoch.
int RunWriter(const std::string& directory, int acknowledge_fd, uint64_t epochs) {
  StoreOptions options;
  options.create_if_missing = true;
  options.workers = 2;
  options.full_table_every = 7;
  options.pack_bytes = 1u << 20;
  auto store = Store::Open(directory, options);
  if (!store.ok()) {
    std::fprintf(stderr, "child: %s\n", store.status().ToString().c_str());
    return 3;
  }
  uint64_t head = 0;
  if (auto records = (*store)->ListEpochs(kJob); records.ok()) head = records->back().epoch();
  if (::write(acknowledge_fd, &head, sizeof head) != sizeof head) return 5;
  for (uint64_t i = 0; i < epochs; ++i, ++head) {
    const absl::Status status = WriteOne(**store, head);
    if (!status.ok()) {
      std::fprintf(stderr, "child: %s\n", status.ToString().c_str());
      return 4;
    }
    const uint64_t done = head + 1;
    if (::write(acknowledge_fd, &done, sizeof done) != sizeof done) return 5;
  }
  return 0;
}

struct ChildEnd {
  int status = 0;
  uint64_t acknowledged = 0;  // the last epoch, 0 if none
};

struct Kill {
  int after_us = 0;       // 0: never
  bool from_open = true;  // counted from when the store is open, else from the fork
};

// Runs a child of this program with `faults` armed.
ChildEnd RunChild(const std::string& directory, const std::string& faults, const Kill& when,
                  uint64_t epochs) {
  SelfChild child({"--writer", directory, std::to_string(SelfChild::kReportFd), std::to_string(epochs)}, faults);
  ChildEnd end;
  uint64_t epoch;
  if (when.after_us > 0) {
    if (when.from_open) (void)child.Receive(&epoch);
    ::usleep(when.after_us);
    child.Kill();
  }
  while (child.Receive(&epoch)) end.acknowledged = epoch;
  end.status = child.Wait();
  return end;
}

class KillTest : public ::testing::Test {
 protected:
  // Opens as the next writer would, and compares. Returns the head.
  uint64_t Check(uint64_t acknowledged, bool all) {
    StoreOptions options;
    options.create_if_missing = true;
    auto store = Store::Open(path_, options);
    EXPECT_TRUE(store.ok()) << store.status();
    if (!store.ok()) return 0;
    auto records = (*store)->ListEpochs(kJob);
    const uint64_t head = records.ok() ? records->back().epoch() : 0;
    EXPECT_EQ(records.ok() ? records->size() : 0, head);
    EXPECT_GE(head, acknowledged) << "an acknowledged epoch is lost";
    EXPECT_LE(head, std::max(acknowledged, head_) + 1);
    head_ = head;
    for (uint64_t epoch = models_.size(); epoch <= head; ++epoch) {
      models_.push_back(models_.empty() ? ModelTable() : models_.back());
      if (epoch > 0) Apply(ChangesOf(epoch), &models_.back());
    }
    const uint64_t first = all || head < 4 ? 1 : head - 3;
    for (uint64_t epoch = first; epoch <= head; ++epoch) {
      EXPECT_EQ(Difference(**store, kJob, epoch, models_[epoch]), "") << "epoch " << epoch;
      EXPECT_EQ((*store)->ReadImage(kJob, epoch).value_or("unreadable"), ImageOf(epoch));
    }
    return head;
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  std::vector<ModelTable> models_;
  uint64_t head_ = 0;
};

TEST_F(KillTest, CommittedEpochsSurviveAKillAtEveryFaultPoint) {
  ASSERT_EQ(RunChild(path_, "", {}, 3).status, 0);
  Check(3, true);
  for (const char* point :
       {"store.pack_write", "store.after_pack_write", "store.pack_sync", "store.after_pack_sync",
        "store.kv_write", "store.kv_write_unsure", "store.after_index", "store.after_manifest",
        "store.after_head"}) {
    for (const int passage : {1, 2, 5}) {
      SCOPED_TRACE(std::string(point) + ":" + std::to_string(passage));
      const ChildEnd end =
          RunChild(path_, std::string(point) + "=kill:" + std::to_string(passage), {}, 20);
      ASSERT_TRUE(WIFSIGNALED(end.status)) << "the point was not passed: " << end.status;
      const uint64_t before = head_;
      const uint64_t head = Check(std::max(before, end.acknowledged), false);
      if (std::string(point) == "store.after_head") {
        EXPECT_EQ(head, before + passage);
      }
      if (testing::Test::HasFailure()) return;
    }
  }
  Check(head_, true);
}

TEST_F(KillTest, CommittedEpochsSurviveAKillAtAnyMoment) {
  std::mt19937 random(20240229);
  uint64_t acknowledged = 0;
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(round);
    Kill when{static_cast<int>(1 + random() % 40'000), round % 4 != 0};
    const ChildEnd end = RunChild(path_, "", when, 1'000'000);
    ASSERT_TRUE(WIFSIGNALED(end.status)) << end.status;
    acknowledged = std::max(acknowledged, end.acknowledged);
    if (::access((path_ + "/FORMAT").c_str(), F_OK) != 0) continue;  // Killed while it was made.
    Check(acknowledged, round % 10 == 9);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(head_, 20) << "too slow to show anything";
  // And the index could be made anew from the packs alone.
  auto remade = RemakeIndex(path_);
  ASSERT_TRUE(remade.ok()) << remade.status();
  EXPECT_EQ(remade->bodies_lost, 0);
  EXPECT_TRUE(remade->dropped.empty());
  Check(acknowledged, true);
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--writer") {
    return incr::RunWriter(argv[2], std::atoi(argv[3]), std::strtoull(argv[4], nullptr, 10));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
