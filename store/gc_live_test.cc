// gc while epochs are written and read: in this process by the store itself, in others by readers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "store/self_child.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/verify.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPages = 300;

// Few contents, so that epochs keep running into pages that gc is about to drop.
uint64_t SeedOf(uint64_t epoch, uint64_t page) { return 1 + (epoch * 7919 + page * 31) % 2000; }

ModelTable ModelOf(uint64_t epoch) {
  ModelTable model;
  for (uint64_t page = 0; page < kPages; ++page) model[{0, page}] = SeedOf(epoch, page);
  return model;
}

absl::Status AddAll(EpochWriter& writer, uint64_t epoch) {
  for (uint64_t page = 0; page < kPages; ++page) {
    INCR_RETURN_IF_ERROR(writer.AddPages(0, {page, 1}, MakePage(SeedOf(epoch, page)).data()));
  }
  return absl::OkStatus();
}

absl::Status WriteEpoch(Store& store, const std::string& job, uint64_t epoch, uint64_t parent) {
  INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch(job, parent));
  INCR_CHECK(writer->epoch() == epoch);
  INCR_RETURN_IF_ERROR(AddAll(*writer, epoch));
  return writer->Commit({}, "image").status();
}

GcOptions KeepLast(uint64_t n) {
  GcOptions options;
  options.policy.keep_last = n;
  options.reader_patience_us = 0;
  return options;
}

class GcLiveTest : public ::testing::Test {
 protected:
  GcLiveTest() { Open(1 << 20); }
  ~GcLiveTest() override { ArmFaultPoints(""); }
  void Open(size_t known) {
    store_.reset();
    StoreOptions options;
    options.create_if_missing = true;
    options.pack_bytes = 1 << 20;
    options.full_table_every = 5;
    options.workers = 2;
    options.max_known_pages = known;
    auto store = Store::Open(path_, options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Write(uint64_t first, uint64_t last) {
    for (uint64_t epoch = first; epoch <= last; ++epoch) {
      const absl::Status status = WriteEpoch(*store_, "job", epoch, epoch - 1);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  size_t PackCount() const {
    size_t n = 0;
    for (const auto& file : fs::directory_iterator(path_ + "/packs")) n += file.is_regular_file();
    return n;
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  std::unique_ptr<Store> store_;
};

TEST_F(GcLiveTest, PagesThatAnEpochInTheMakingReliesOnStay) {
  for (const size_t known : {size_t{1} << 20, size_t{10}}) {  // ids in memory, or in the database
    SCOPED_TRACE(known);
    Open(known);
    const uint64_t head = store_->ListEpochs("job").ok() ? store_->ListEpochs("job")->back().epoch() : 0;
    Write(head + 1, head + 6);
    // The same contents as epoch head + 2, which is about to go: all deduplicated.
    auto writer = store_->BeginEpoch("other", 0);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(AddAll(**writer, head + 2).ok());
    ASSERT_TRUE((*writer)->Settle().ok());
    auto collected = store_->CollectGarbage(KeepLast(1));
    ASSERT_TRUE(collected.ok()) << collected.status();
    EXPECT_GE(collected->epochs_dropped, 5);
    EXPECT_GT(collected->pages_dropped, 0);
    auto record = (*writer)->Commit({}, "image");
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->stats().pages_stored(), 0) << "not the race that this is about";
    writer->reset();
    EXPECT_EQ(Difference(*store_, "other", record->epoch(), ModelOf(head + 2)), "");
    ASSERT_TRUE(store_->CollectGarbage(KeepLast(1)).ok());
    EXPECT_EQ(Difference(*store_, "other", record->epoch(), ModelOf(head + 2)), "");
  }
}

TEST_F(GcLiveTest, AnEpochCommittedBetweenMarkAndSweepKeepsItsPages) {
  for (const size_t known : {size_t{1} << 20, size_t{10}}) {
    SCOPED_TRACE(known);
    Open(known);
    const uint64_t head = store_->ListEpochs("job").ok() ? store_->ListEpochs("job")->back().epoch() : 0;
    Write(head + 1, head + 4);
    const std::string other = "other" + std::to_string(known);
    // Half of it is about to be dropped, half is new. gc does not see its manifest.
    ModelTable model = ModelOf(head + 1);
    for (uint64_t page = 0; page < kPages; page += 2) model[{0, page}] = 1'000'000 * head + 5'000 + page;
    GcOptions options = KeepLast(1);
    bool written = false;
    options.progress = [&](const GcProgress& progress) -> absl::Status {
      if (progress.step != "marking" || std::exchange(written, true)) return absl::OkStatus();
      INCR_ASSIGN_OR_RETURN(auto writer, store_->BeginEpoch(other, 0));
      for (const auto& [place, seed] : model) {
        INCR_RETURN_IF_ERROR(writer->AddPages(0, {place.second, 1}, MakePage(seed).data()));
      }
      INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record, writer->Commit({}, "image"));
      EXPECT_GT(record.stats().pages_deduplicated(), 0);
      EXPECT_GT(record.stats().pages_stored(), 0);
      return absl::OkStatus();
    };
    auto collected = store_->CollectGarbage(options);
    ASSERT_TRUE(collected.ok()) << collected.status();
    ASSERT_TRUE(written);
    EXPECT_GT(collected->pages_dropped, 0);
    EXPECT_EQ(Difference(*store_, other, 1, model), "");
  }
}

absl::Status AddAll(EpochImporter& importer, const ModelTable& model) {
  PageTable table;
  for (const auto& [place, seed] : model) {
    INCR_RETURN_IF_ERROR(importer.AddPages(MakePage(seed).data(), 1));
    table.push_back({place.first, place.second, {0, table.size() + 1}});
  }
  pb::EpochRecord record;
  record.set_epoch(1);
  return importer.AddEpoch(record, std::move(table), "image").status();
}

TEST_F(GcLiveTest, PagesThatAnImportReliesOnStay) {
  for (const size_t known : {size_t{1} << 20, size_t{10}}) {
    SCOPED_TRACE(known);
    Open(known);
    const uint64_t head = store_->ListEpochs("job").ok() ? store_->ListEpochs("job")->back().epoch() : 0;
    Write(head + 1, head + 6);
    // All of it is about to go but for what the import has found.
    const std::string other = "other" + std::to_string(known);
    auto importer = store_->BeginImport(other);
    ASSERT_TRUE(importer.ok()) << importer.status();
    ASSERT_TRUE(AddAll(**importer, ModelOf(head + 2)).ok());
    auto collected = store_->CollectGarbage(KeepLast(1));
    ASSERT_TRUE(collected.ok()) << collected.status();
    EXPECT_GT(collected->pages_dropped, 0);
    ASSERT_TRUE((*importer)->Commit().ok());
    EXPECT_EQ((*importer)->pages_stored(), 0) << "not the race that this is about";
    importer->reset();
    EXPECT_EQ(Difference(*store_, other, 1, ModelOf(head + 2)), "");
    ASSERT_TRUE(store_->CollectGarbage(KeepLast(1)).ok());
    EXPECT_EQ(Difference(*store_, other, 1, ModelOf(head + 2)), "");
  }
}

TEST_F(GcLiveTest, AnImportBeforeTheSweepAndCommittedAfterTheMarkKeepsItsPages) {
  for (const bool begun_before : {true, false}) {
    SCOPED_TRACE(begun_before);
    const uint64_t head = store_->ListEpochs("job").ok() ? store_->ListEpochs("job")->back().epoch() : 0;
    Write(head + 1, head + 4);
    const std::string other = begun_before ? "before" : "within";
    ModelTable model = ModelOf(head + 1);
    for (uint64_t page = 0; page < kPages; page += 2) model[{0, page}] = 1'000'000 * (head + 1) + page;
    std::unique_ptr<EpochImporter> importer;
    const auto begin = [&]() -> absl::Status {
      INCR_ASSIGN_OR_RETURN(importer, store_->BeginImport(other));
      return AddAll(*importer, model);
    };
    if (begun_before) {
      ASSERT_TRUE(begin().ok());
    }
    GcOptions options = KeepLast(1);
    bool written = false;
    options.progress = [&](const GcProgress& progress) -> absl::Status {
      if (progress.step != "marking" || std::exchange(written, true)) return absl::OkStatus();
      if (!begun_before) INCR_RETURN_IF_ERROR(begin());
      INCR_RETURN_IF_ERROR(importer->Commit());
      EXPECT_GT(importer->pages_stored(), 0);
      EXPECT_LT(importer->pages_stored(), kPages);
      importer.reset();
      return absl::OkStatus();
    };
    auto collected = store_->CollectGarbage(options);
    ASSERT_TRUE(collected.ok()) << collected.status();
    ASSERT_TRUE(written);
    EXPECT_GT(collected->pages_dropped, 0);
    EXPECT_EQ(Difference(*store_, other, 1, model), "");
  }
}

TEST_F(GcLiveTest, DroppedPagesAreStoredAnew) {
  Write(1, 6);
  ASSERT_TRUE(store_->CollectGarbage(KeepLast(1)).ok());
  ASSERT_TRUE(WriteEpoch(*store_, "other", 1, 0).ok());
  EXPECT_EQ(Difference(*store_, "other", 1, ModelOf(1)), "");
  EXPECT_EQ(Difference(*store_, "job", 6, ModelOf(6)), "");
}

TEST_F(GcLiveTest, TheParentOfAnEpochInTheMakingStaysAndItsDepthIsWhatItIsThen) {
  Write(1, 8);
  // On epoch 3, a delta in the middle of a chain that gc makes shorter meanwhile.
  auto writer = store_->BeginEpoch("job", 3);
  ASSERT_TRUE(writer.ok());
  const PageBytes page = MakePage(1'000'000);
  ASSERT_TRUE((*writer)->AddPages(0, {5, 1}, page.data()).ok());
  auto collected = store_->CollectGarbage(KeepLast(1));
  ASSERT_TRUE(collected.ok()) << collected.status();
  ASSERT_TRUE((*writer)->Commit({}, "image").ok());
  writer->reset();
  ModelTable model = ModelOf(3);
  EXPECT_EQ(Difference(*store_, "job", 3, model), "");
  model[{0, 5}] = 1'000'000;
  EXPECT_EQ(Difference(*store_, "job", 9, model), "");
  EXPECT_EQ(store_->ListEpochs("job")->size(), 3);  // 3, 8, 9
}

TEST_F(GcLiveTest, EpochsThatSomebodyGoesOnFromStay) {
  Write(1, 6);
  GcOptions options = KeepLast(1);
  options.in_use = [] { return std::vector<std::pair<std::string, uint64_t>>{{"job", 2}}; };
  auto collected = store_->CollectGarbage(options);
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_EQ(collected->epochs[1].rule, "in use");
  EXPECT_EQ(Difference(*store_, "job", 2, ModelOf(2)), "");
  EXPECT_EQ(store_->ListEpochs("job")->size(), 2);
}

TEST_F(GcLiveTest, AReadersSnapshotStaysWholeUntilItIsClosed) {
  Write(1, 8);
  auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  const size_t packs = PackCount();
  auto collected = store_->CollectGarbage(KeepLast(1));
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_GT(collected->packs_waiting, 0);
  EXPECT_EQ(collected->packs_deleted, 0);
  EXPECT_GE(PackCount(), packs);
  for (uint64_t epoch = 1; epoch <= 8; ++epoch) {
    EXPECT_EQ(Difference(**reader, "job", epoch, ModelOf(epoch)), "") << epoch;
  }
  // One that opens now needs none of the old packs and never holds them up.
  auto later = StoreReader::Open(path_);
  ASSERT_TRUE(later.ok());
  ASSERT_TRUE((*reader)->Refresh().ok());
  EXPECT_EQ((*reader)->ListEpochs("job")->size(), 1);
  collected = store_->CollectGarbage(KeepLast(1));
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_GT(collected->packs_deleted, 0);
  EXPECT_EQ(collected->packs_waiting, 0);
  EXPECT_LT(PackCount(), packs);
  EXPECT_EQ(Difference(**later, "job", 8, ModelOf(8)), "");
  EXPECT_EQ(Difference(**reader, "job", 8, ModelOf(8)), "");
  EXPECT_EQ(Difference(*store_, "job", 8, ModelOf(8)), "");
}

TEST_F(GcLiveTest, AReaderThatDiedHoldsNothingUp) {
  Write(1, 8);
  SelfChild child({"--reader", path_, std::to_string(SelfChild::kReportFd)});
  char answer = 0;
  ASSERT_TRUE(child.Receive(&answer));
  ASSERT_EQ(answer, 'y');
  EXPECT_GT(store_->CollectGarbage(KeepLast(1))->packs_waiting, 0);
  child.Kill();
  (void)child.Wait();
  auto collected = store_->CollectGarbage(KeepLast(1));
  ASSERT_TRUE(collected.ok());
  EXPECT_EQ(collected->packs_waiting, 0);
  EXPECT_GT(collected->packs_deleted, 0);
}

TEST_F(GcLiveTest, OnlyOneAtATimeAndAStopLeavesEverythingWhole) {
  Write(1, 8);
  GcOptions options = KeepLast(2);
  int calls = 0;
  options.progress = [&](const GcProgress&) {
    EXPECT_TRUE(absl::IsFailedPrecondition(store_->CollectGarbage(KeepLast(1)).status()));
    return ++calls < 3 ? absl::OkStatus() : absl::CancelledError("enough");
  };
  EXPECT_TRUE(absl::IsCancelled(store_->CollectGarbage(options).status()));
  for (uint64_t epoch = 7; epoch <= 8; ++epoch) {
    EXPECT_EQ(Difference(*store_, "job", epoch, ModelOf(epoch)), "");
  }
  ASSERT_TRUE(store_->CollectGarbage(KeepLast(2)).ok());
  for (uint64_t epoch = 7; epoch <= 8; ++epoch) {
    EXPECT_EQ(Difference(*store_, "job", epoch, ModelOf(epoch)), "");
  }
}

// Two jobs write, gc runs all the time, readers come and go.
TEST_F(GcLiveTest, WritersAndReadersNeverMissAPage) {
  for (const size_t known : {size_t{1} << 20, size_t{100}}) {
    SCOPED_TRACE(known);
    Open(known);
    std::atomic<bool> stop{false};
    const auto write = [&](const std::string& job) {
      auto records = store_->ListEpochs(job);
      for (uint64_t epoch = records.ok() ? records->back().epoch() + 1 : 1; !stop; ++epoch) {
        const absl::Status status = WriteEpoch(*store_, job, epoch, epoch - 1);
        EXPECT_TRUE(status.ok()) << status;
        if (!status.ok()) return;
      }
    };
    std::thread writers[] = {std::thread(write, "a"), std::thread(write, "b")};
    std::atomic<int> read{0}, refreshed{0};
    std::thread reader([&] {
      std::mt19937 random(1);
      while (!stop) {
        auto snapshot = StoreReader::Open(path_);
        EXPECT_TRUE(snapshot.ok()) << snapshot.status();
        if (!snapshot.ok()) return;
        for (const std::string& job : (*snapshot)->ListJobs()) {
          auto records = (*snapshot)->ListEpochs(job);
          if (!records.ok()) continue;
          const uint64_t epoch = (*records)[random() % records->size()].epoch();
          EXPECT_EQ(Difference(**snapshot, job, epoch, ModelOf(epoch)), "") << job << epoch;
          ++read;
        }
        if (testing::Test::HasFailure()) return;
      }
    });
    int rounds = 0;
    uint64_t deleted = 0, dropped = 0;
    for (const Stopwatch time; time.elapsed_us() < 4'000'000 && !testing::Test::HasFailure(); ++rounds) {
      GcOptions options = KeepLast(1 + rounds % 4);
      options.recompress_zstd = rounds % 2 == 0;
      options.thorough = rounds % 3 == 0;
      options.reader_patience_us = 1'000'000;
      auto collected = store_->CollectGarbage(options);
      EXPECT_TRUE(collected.ok()) << collected.status();
      if (!collected.ok()) break;
      deleted += collected->packs_deleted;
      dropped += collected->pages_dropped;
      // Through the store itself, as `start` does with a parent's table.
      for (const std::string& job : store_->ListJobs()) {
        const uint64_t epoch = store_->ListEpochs(job)->back().epoch();
        EXPECT_EQ(Difference(*store_, job, epoch, ModelOf(epoch)), "") << job << epoch;
      }
    }
    stop = true;
    for (std::thread& writer : writers) writer.join();
    reader.join();
    EXPECT_GT(rounds, 3);
    EXPECT_GT(read, 3);
    EXPECT_GT(deleted, 0);
    EXPECT_GT(dropped, 0);
    for (const std::string& job : store_->ListJobs()) {
      const auto records = store_->ListEpochs(job);
      ASSERT_TRUE(records.ok()) << records.status();
      for (const pb::EpochRecord& record : *records) {
        EXPECT_EQ(Difference(*store_, job, record.epoch(), ModelOf(record.epoch())), "");
      }
    }
  }
}

// Verify reads packs that gc moves and deletes meanwhile.
TEST_F(GcLiveTest, VerifyBesideItFindsNothing) {
  Open(1 << 20);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (uint64_t epoch = 1; !stop; ++epoch) {
      const absl::Status status = WriteEpoch(*store_, "job", epoch, epoch - 1);
      EXPECT_TRUE(status.ok()) << status;
      if (!status.ok()) return;
    }
  });
  std::atomic<uint64_t> deleted{0};
  std::thread collector([&] {
    for (int round = 0; !stop; ++round) {
      GcOptions options = KeepLast(1 + round % 3);
      options.recompress_zstd = round % 2 == 0;
      auto collected = store_->CollectGarbage(options);
      EXPECT_TRUE(collected.ok()) << collected.status();
      if (collected.ok()) deleted += collected->packs_deleted;
    }
  });
  int verified = 0;
  for (const Stopwatch time; time.elapsed_us() < 4'000'000 && !testing::Test::HasFailure(); ++verified) {
    auto report = VerifyStore(path_, {});
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok()) break;
    EXPECT_TRUE(report->ok());
    for (const Damage& damage : report->damage) ADD_FAILURE() << damage.object << ": " << damage.what;
    for (const DamagedEpoch& epoch : report->damaged_epochs) {
      ADD_FAILURE() << "epoch " << epoch.epoch << " lost " << epoch.lost_pages << " "
                    << (epoch.problems.empty() ? "" : epoch.problems[0]);
    }
  }
  stop = true;
  writer.join();
  collector.join();
  EXPECT_GT(verified, 3);
  EXPECT_GT(deleted, 0u);
}

uint64_t BytesUnder(const std::string& directory) {
  uint64_t bytes = 0;
  for (const auto& file : fs::recursive_directory_iterator(directory)) {
    if (file.is_regular_file()) bytes += file.file_size();
  }
  return bytes;
}

// 50 epochs that each replace a tenth of 24 MiB; one of them is to stay.
TEST_F(GcLiveTest, OneEpochOfFiftyTakesTheSpaceOfAStoreWithItAlone) {
  constexpr uint64_t kLarge = 6144;
  for (const uint64_t kept : {1, 25, 50}) {
    SCOPED_TRACE(kept);
    const std::string path = directory_ / std::to_string(kept), alone = path + "alone";
    StoreOptions options;
    options.create_if_missing = true;
    options.pack_bytes = 8 << 20;
    auto store = Store::Open(path, options);
    ASSERT_TRUE(store.ok());
    std::mt19937_64 random(kept);
    ModelTable model, wanted;
    for (uint64_t epoch = 1; epoch <= 50; ++epoch) {
      auto writer = (*store)->BeginEpoch("job", epoch - 1);
      ASSERT_TRUE(writer.ok());
      for (uint64_t i = 0; i < (epoch == 1 ? kLarge : kLarge / 10); ++i) {
        const uint64_t page = epoch == 1 ? i : random() % kLarge, seed = random() >> 1;
        model[{0, page}] = seed;
        ASSERT_TRUE((*writer)->AddPages(0, {page, 1}, MakePage(seed).data()).ok());
      }
      ASSERT_TRUE((*writer)->Commit({}, "image").ok());
      if (epoch == kept) wanted = model;
    }
    GcOptions gc;
    gc.policy.keep = {kept};
    if (kept != 50) gc.policy.keep_last = 0;
    gc.dry_run = true;
    auto plan = (*store)->CollectGarbage(gc);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ((*store)->ListEpochs("job")->size(), 50) << "a dry run changes nothing";
    gc.dry_run = false;
    auto done = (*store)->CollectGarbage(gc);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(plan->epochs_dropped, done->epochs_dropped);
    EXPECT_NEAR(plan->pages_dropped, done->pages_dropped, plan->pages_dropped / 50 + 5);
    EXPECT_NEAR(plan->bytes_after, done->bytes_after, done->bytes_after / 10);
    EXPECT_EQ(Difference(**store, "job", kept, wanted), "");
    // A fresh one with what stays: the newest stays too.
    auto fresh = Store::Open(alone, options);
    ASSERT_TRUE(fresh.ok());
    uint64_t parent = 0;
    std::vector<ModelTable> tables = {wanted};
    if (kept != 50) tables.push_back(model);
    for (const ModelTable& table : tables) {
      auto writer = (*fresh)->BeginEpoch("job", parent);
      ASSERT_TRUE(writer.ok());
      for (const auto& [place, seed] : table) {
        ASSERT_TRUE((*writer)->AddPages(0, {place.second, 1}, MakePage(seed).data()).ok());
      }
      ASSERT_TRUE((*writer)->Commit({}, "image").ok());
      ++parent;
    }
    fresh->reset();
    const uint64_t after = BytesUnder(path), ideal = BytesUnder(alone);
    std::printf("kept %d: %.3f of a fresh store's bytes\n", int(kept), double(after) / ideal);
    EXPECT_LT(after, ideal * 11 / 10) << after << " instead of " << ideal;
    EXPECT_GT(done->bytes_before, done->bytes_after);
  }
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--reader") {
    auto reader = incr::StoreReader::Open(argv[2]);
    (void)!::write(std::atoi(argv[3]), reader.ok() ? "y" : "n", 1);
    ::pause();
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
