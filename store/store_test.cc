#include "store/store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/fault_point.h"
#include "store/page_index.h"
#include "store/test_pages.h"

namespace incr {
namespace {

using ::testing::HasSubstr;

StoreOptions Creating() {
  StoreOptions options;
  options.create_if_missing = true;
  options.workers = 2;
  return options;
}

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { Reopen(); }
  ~StoreTest() override { ArmFaultPoints(""); }

  void Reopen(const StoreOptions& options = Creating()) {
    store_.reset();
    auto store = Store::Open(path_, options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  std::unique_ptr<EpochWriter> Begin(uint64_t parent, const std::string& job = "job") {
    auto writer = store_->BeginEpoch(job, parent);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return writer.ok() ? *std::move(writer) : nullptr;
  }

  // Writes `pages` (page -> seed) as one epoch.
  absl::StatusOr<pb::EpochRecord> Put(uint64_t parent, const std::map<uint64_t, uint64_t>& pages,
                                      const std::string& job = "job") {
    auto writer = Begin(parent, job);
    for (const auto& [page, seed] : pages) {
      INCR_RETURN_IF_ERROR(writer->AddPages(0, {page, 1}, MakePage(seed).data()));
    }
    return writer->Commit({}, "image");
  }

  static ModelTable Model(const std::map<uint64_t, uint64_t>& pages) {
    ModelTable model;
    for (const auto& [page, seed] : pages) model[{0, page}] = seed;
    return model;
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, WhatWasCommittedReadsBack) {
  pb::EpochRecord record;
  record.set_pid(71);
  record.set_tracker("compare");
  auto writer = Begin(0);
  EXPECT_EQ(writer->epoch(), 1);
  ASSERT_TRUE(writer->AddPages(0, {5, 1}, MakePage(1).data()).ok());
  ASSERT_TRUE(writer->AddPages(3, {5, 1}, MakePage(4).data()).ok());
  ASSERT_TRUE(writer->AddPages(0, {9, 1}, MakePage(0).data()).ok());
  auto committed = writer->Commit(record, "an image");
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->epoch(), 1);
  EXPECT_EQ(committed->job(), "job");
  EXPECT_EQ(committed->table_pages(), 3);
  EXPECT_EQ(committed->stats().pages_written(), 3);
  EXPECT_EQ(committed->stats().pages_zero(), 1);
  EXPECT_EQ(committed->stats().pages_stored(), 2);
  EXPECT_GT(committed->stats().bytes_stored(), 0);
  writer.reset();
  const ModelTable model = {{{0, 5}, 1}, {{0, 9}, 0}, {{3, 5}, 4}};
  EXPECT_EQ(Difference(*store_, "job", 1, model), "");
  Reopen();
  EXPECT_EQ(Difference(*store_, "job", 1, model), "");
  EXPECT_EQ(store_->ReadImage("job", 1).value(), "an image");
  auto again = store_->GetEpoch("job", 1);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->SerializeAsString(), committed->SerializeAsString());
  EXPECT_EQ(again->pid(), 71);
}

// The index of a large epoch comes into the database as a file of its own, into which RocksDB writes a sequence number once
// there are others over the same keys.
TEST_F(StoreTest, LargeEpochsFollowOneAnother) {
  constexpr uint64_t kPages = kIngestEntries + 100;
  std::vector<std::map<uint64_t, uint64_t>> epochs(4);
  for (uint64_t epoch = 0; epoch < epochs.size(); ++epoch) {
    for (uint64_t page = 0; page < kPages; ++page) epochs[epoch][page] = epoch * kPages + page + 1;
    const auto record = Put(epoch, epochs[epoch]);
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->stats().pages_stored(), kPages);
  }
  Reopen();
  for (uint64_t epoch = 0; epoch < epochs.size(); ++epoch) {
    EXPECT_EQ(Difference(*store_, "job", epoch + 1, Model(epochs[epoch])), "");
  }
}

TEST_F(StoreTest, AnEpochMayBeEmpty) {
  auto record = Put(0, {});
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(Difference(*store_, "job", 1, {}), "");
  ASSERT_TRUE(Put(1, {}).ok());
  EXPECT_EQ(Difference(*store_, "job", 2, {}), "");
}

TEST_F(StoreTest, ThePageGivenLastWins) {
  auto writer = Begin(0);
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    ASSERT_TRUE(writer->AddPages(0, {7, 1}, MakePage(seed).data()).ok());
  }
  ASSERT_TRUE(writer->AddPages(0, {8, 1}, MakePage(3).data()).ok());
  ASSERT_TRUE(writer->AddGone(0, {8, 1}).ok());
  ASSERT_TRUE(writer->AddGone(0, {9, 100}).ok());
  ASSERT_TRUE(writer->AddPages(0, {10, 1}, MakePage(4).data()).ok());
  auto record = writer->Commit({}, "");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(Difference(*store_, "job", 1, Model({{7, 200}, {10, 4}})), "");
  EXPECT_EQ(record->stats().pages_written(), 2);
}

TEST_F(StoreTest, PagesGivenAgainAndAgainCostNoMemory) {
  auto writer = Begin(0);
  std::vector<uint8_t> bytes(64 * kPageSize);
  for (uint64_t round = 0; round < 20'000; ++round) {
    if (round >= 19'990) bytes[0] = round - 19'990 + 1;
    ASSERT_TRUE(writer->AddPages(0, {0, 64}, bytes.data()).ok());
  }
  auto record = writer->Commit({}, "");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->stats().pages_written(), 64);
  EXPECT_EQ(record->stats().pages_zero(), 63);
  const PageTable table = store_->LoadPageTable("job", 1).value();
  ASSERT_TRUE(store_->ReadPages({table[0].id}, [&](size_t, const uint8_t* page) {
    EXPECT_EQ(page[0], 10);
    return absl::OkStatus();
  }).ok());
}

TEST_F(StoreTest, AHugeGoneRangeCostsNothing) {
  ASSERT_TRUE(Put(0, {{5, 1}, {uint64_t{1} << 40, 2}}).ok());
  auto writer = Begin(1);
  ASSERT_TRUE(writer->AddGone(0, {6, (uint64_t{1} << 51)}).ok());
  auto record = writer->Commit({}, "");
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record->stats().pages_gone(), 1);
  EXPECT_EQ(Difference(*store_, "job", 2, Model({{5, 1}})), "");
}

TEST_F(StoreTest, EqualPagesAreStoredOnce) {
  auto first = Put(0, {{1, 10}, {2, 10}, {3, 11}});
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->stats().pages_stored(), 2);
  EXPECT_EQ(first->stats().pages_deduplicated(), 1);
  // Unchanged, moved, from another job, and after a reopen: nothing new is written.
  auto same = Put(1, {{1, 10}, {4, 11}});
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->stats().pages_stored(), 0);
  EXPECT_EQ(same->stats().pages_deduplicated(), 2);
  EXPECT_EQ(same->stats().bytes_stored(), 0);
  Reopen();
  auto other = Put(0, {{77, 10}}, "other");
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->stats().pages_stored(), 0);
  EXPECT_EQ(Difference(*store_, "other", 1, Model({{77, 10}})), "");
}

TEST_F(StoreTest, EpochsFormATree) {
  ASSERT_TRUE(Put(0, {{1, 1}, {2, 2}}).ok());
  ASSERT_TRUE(Put(1, {{2, 3}}).ok());
  ASSERT_TRUE(Put(1, {{1, 5}}).ok());  // Epoch 3 grows from epoch 1 after a restore.
  ASSERT_TRUE(Put(3, {{9, 9}}).ok());
  EXPECT_EQ(Difference(*store_, "job", 1, Model({{1, 1}, {2, 2}})), "");
  EXPECT_EQ(Difference(*store_, "job", 2, Model({{1, 1}, {2, 3}})), "");
  EXPECT_EQ(Difference(*store_, "job", 3, Model({{1, 5}, {2, 2}})), "");
  EXPECT_EQ(Difference(*store_, "job", 4, Model({{1, 5}, {2, 2}, {9, 9}})), "");
  auto epochs = store_->ListEpochs("job");
  ASSERT_TRUE(epochs.ok());
  ASSERT_EQ(epochs->size(), 4);
  EXPECT_EQ((*epochs)[2].parent(), 1);
}

TEST_F(StoreTest, AnAbandonedEpochHasNeverBeen) {
  ASSERT_TRUE(Put(0, {{1, 1}}).ok());
  std::set<std::string> packs;
  for (int i = 0; i < 3; ++i) {
    auto writer = Begin(1);
    EXPECT_EQ(writer->epoch(), 2);
    for (uint64_t page = 0; page < 2000; ++page) {
      ASSERT_TRUE(writer->AddPages(0, {page, 1}, MakePage(1000 + page).data()).ok());
    }
  }
  auto next = Put(1, {{2, 1000}});
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(next->epoch(), 2);
  EXPECT_EQ(next->stats().pages_stored(), 1) << "deduplicated against a page never committed";
  EXPECT_EQ(Difference(*store_, "job", 2, Model({{1, 1}, {2, 1000}})), "");
}

TEST_F(StoreTest, PagesOfAFailedCommitAreNotKnown) {
  ASSERT_TRUE(Put(0, {{1, 1}}).ok());
  // The fourth write is the head; the index is written by then.
  for (const char* fault : {"store.after_index=error", "store.after_manifest=error",
                            "store.kv_write=error:4"}) {
    ArmFaultPoints(fault);
    EXPECT_FALSE(Put(1, {{2, 50}, {3, 51}}).ok());
    ArmFaultPoints("");
  }
  auto next = Put(1, {{2, 50}, {3, 51}});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->stats().pages_stored(), 2) << "deduplicated against a page never committed";
  EXPECT_EQ(Difference(*store_, "job", 2, Model({{1, 1}, {2, 50}, {3, 51}})), "");
}

TEST_F(StoreTest, AHeadInDoubtThatIsThereIsACommit) {
  ASSERT_TRUE(Put(0, {{1, 1}}).ok());
  ArmFaultPoints("store.kv_write_unsure=error:4");
  auto unsure = Put(1, {{2, 50}});
  ArmFaultPoints("");
  ASSERT_TRUE(unsure.ok()) << unsure.status();
  auto next = Put(2, {{3, 50}});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->stats().pages_stored(), 0) << "committed pages are known";
  Reopen();
  EXPECT_EQ(Difference(*store_, "job", 3, Model({{1, 1}, {2, 50}, {3, 50}})), "");
}

TEST_F(StoreTest, WhatCouldNotBeReadBackIsNotCommitted) {
  std::map<uint64_t, uint64_t> pages;
  for (uint64_t page = 0; page < 40; ++page) pages[2 * page] = page;
  ASSERT_TRUE(Put(0, pages).ok());
  ArmFaultPoints("store.small_tables=error");  // 64 pages
  std::map<uint64_t, uint64_t> more;
  for (uint64_t page = 0; page < 40; ++page) more[2 * page + 1] = 0;
  auto large = Put(1, more);
  EXPECT_EQ(large.status().code(), absl::StatusCode::kResourceExhausted) << large.status();
  EXPECT_THAT(large.status().message(), HasSubstr("epoch 2 of job job: table of 80 pages"));
  ArmFaultPoints("");
  pb::EpochRecord record;
  record.set_tracker(std::string(70'000, 't'));
  auto long_record = Begin(1)->Commit(record, "");
  EXPECT_EQ(long_record.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(long_record.status().message(), HasSubstr("record of 70"));
  EXPECT_EQ(store_->ListEpochs("job")->size(), 1u);
  ASSERT_TRUE(Put(1, more).ok());
  EXPECT_EQ(store_->LoadPageTable("job", 2)->size(), 80u);
}

TEST_F(StoreTest, OneEpochOfAJobAtATime) {
  auto writer = Begin(0);
  auto second = store_->BeginEpoch("job", 0);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store_->BeginEpoch("other", 0).ok());
  writer.reset();
  EXPECT_TRUE(store_->BeginEpoch("job", 0).ok());
}

TEST_F(StoreTest, ErrorsNameWhatIsMissing) {
  ASSERT_TRUE(Put(0, {{1, 1}}).ok());
  ASSERT_TRUE(Put(1, {{1, 2}}).ok());
  EXPECT_EQ(store_->BeginEpoch("a/b", 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->BeginEpoch("", 0).status().code(), absl::StatusCode::kInvalidArgument);
  auto parent = store_->BeginEpoch("job", 7);
  EXPECT_EQ(parent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(parent.status().message(), HasSubstr("1-2"));
  EXPECT_THAT(store_->ListEpochs("nobody").status().message(), HasSubstr("nobody"));
  EXPECT_EQ(store_->GetEpoch("nobody", 1).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store_->BeginEpoch("job", 2).ok()) << "a refused epoch must not keep the job busy";
}

TEST_F(StoreTest, OneWriterPerStore) {
  auto second = Store::Open(path_, Creating());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("locked"));
  EXPECT_THAT(second.status().message(), HasSubstr(std::to_string(::getpid())));
}

TEST_F(StoreTest, ForeignDirectoriesAreLeftAlone) {
  const std::string foreign = directory_ / "foreign";
  std::filesystem::create_directory(foreign);
  std::ofstream(foreign + "/thesis.txt") << "text";
  EXPECT_EQ(Store::Open(foreign, Creating()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StoreReader::Open(foreign).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(foreign), {}), 1);
  EXPECT_EQ(StoreReader::Open(directory_ / "absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Store::Open(directory_ / "absent", {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(directory_ / "absent"));
}

TEST_F(StoreTest, AStoreOfANewerVersionIsRefused) {
  store_.reset();
  std::ofstream(path_ + "/FORMAT") << "version 9\nincr-ckpt store\n";
  auto reader = StoreReader::Open(path_);
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(reader.status().message(), HasSubstr("version 9"));
  EXPECT_EQ(Store::Open(path_, Creating()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(StoreTest, AHalfMadeStoreIsMadeWhole) {
  const std::string half = directory_ / "half";
  ArmFaultPoints("store.before_format=error");
  EXPECT_FALSE(Store::Open(half, Creating()).ok());
  ArmFaultPoints("");
  EXPECT_EQ(StoreReader::Open(half).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Store::Open(half, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Store::Open(half, Creating()).ok());
}

TEST_F(StoreTest, SecretAndBodiesAreForTheOwnerOnly) {
  ASSERT_TRUE(Put(0, {{1, 1}}).ok());
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700);
  ASSERT_EQ(::stat((path_ + "/secret").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600);
  EXPECT_EQ(info.st_size, 192);
  ASSERT_EQ(::stat((path_ + "/commits").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600);
  EXPECT_EQ(info.st_size, 8192);
  ASSERT_EQ(::stat((path_ + "/packs/00000001.pack").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600);
}

TEST_F(StoreTest, ALongChainIsCutByFullTables) {
  StoreOptions options = Creating();
  options.full_table_every = 8;
  Reopen(options);
  std::map<uint64_t, uint64_t> pages;
  for (uint64_t page = 0; page < 500; ++page) pages[page] = page + 1;
  ASSERT_TRUE(Put(0, pages).ok());
  for (uint64_t epoch = 2; epoch <= 100; ++epoch) {
    pages[epoch * 3] = 1000 + epoch;
    ASSERT_TRUE(Put(epoch - 1, {{epoch * 3, 1000 + epoch}}).ok());
  }
  EXPECT_EQ(Difference(*store_, "job", 100, Model(pages)), "");
  Reopen(options);
  EXPECT_EQ(Difference(*store_, "job", 100, Model(pages)), "");
}

// Large enough for streaming, ingestion, and several packs.
class StoreSizesTest : public StoreTest {
 protected:
  void WriteAndCheck() {
    StoreOptions options = Creating();
    options.pack_bytes = 8u << 20;
    options.buffer_bytes = 4u << 20;
    Reopen(options);
    ModelTable model;
    auto writer = Begin(0);
    constexpr uint64_t kRun = 100;
    std::vector<uint8_t> bytes(kRun * kPageSize);
    for (uint64_t first = 0; first < 20000; first += kRun) {
      for (uint64_t i = 0; i < kRun; ++i) {
        const uint64_t seed = (first + i) % 11 == 0 ? 0 : first + i;
        model[{0, first + i}] = seed;
        std::memcpy(bytes.data() + i * kPageSize, MakePage(seed).data(), kPageSize);
      }
      ASSERT_TRUE(writer->AddPages(0, {first, kRun}, bytes.data()).ok());
    }
    auto record = writer->Commit({}, std::string(5u << 20, 'i'));
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->stats().pages_stored(), 18181);
    writer.reset();
    EXPECT_EQ(Difference(*store_, "job", 1, model), "");
    Reopen(options);
    EXPECT_EQ(Difference(*store_, "job", 1, model), "");
    EXPECT_EQ(store_->ReadImage("job", 1).value(), std::string(5u << 20, 'i'));
    EXPECT_GT(std::distance(std::filesystem::directory_iterator(path_ + "/packs"), {}), 3);
  }
};

TEST_F(StoreSizesTest, LargeEpochsReadBack) { WriteAndCheck(); }
TEST_F(StoreSizesTest, LargeEpochsReadBackWithoutIoUring) {
  ArmFaultPoints("store.no_uring=error");
  WriteAndCheck();
}
TEST_F(StoreSizesTest, LargeEpochsReadBackWithoutRegisteredBuffers) {
  ArmFaultPoints("store.no_registered_buffers=error");
  WriteAndCheck();
}
TEST_F(StoreSizesTest, LargeEpochsReadBackWithoutDirectIo) {
  ArmFaultPoints("store.no_direct=error");
  WriteAndCheck();
}

TEST_F(StoreTest, ManyJobsAtOnceAndABoundSmallerThanABlock) {
  StoreOptions options = Creating();
  options.buffer_bytes = 1;
  Reopen(options);
  std::vector<std::unique_ptr<EpochWriter>> writers;
  for (int job = 0; job < 20; ++job) writers.push_back(Begin(0, "job" + std::to_string(job)));
  for (uint64_t page = 0; page < 300; ++page) {
    for (size_t job = 0; job < writers.size(); ++job) {
      ASSERT_TRUE(
          writers[job]->AddPages(0, {page, 1}, MakePage(1 + page * (job + 1)).data()).ok());
    }
  }
  for (size_t job = 0; job < writers.size(); ++job) {
    auto record = writers[job]->Commit({}, "");
    ASSERT_TRUE(record.ok()) << record.status();
    writers[job].reset();
  }
  Reopen();
  for (size_t job = 0; job < writers.size(); ++job) {
    ModelTable model;
    for (uint64_t page = 0; page < 300; ++page) model[{0, page}] = 1 + page * (job + 1);
    EXPECT_EQ(Difference(*store_, "job" + std::to_string(job), 1, model), "");
  }
}

TEST_F(StoreTest, ReadPagesTakesDuplicatesAndZeroPagesAndStopsAtASinkError) {
  ASSERT_TRUE(Put(0, {{1, 1}, {2, 2}, {3, 0}}).ok());
  PageTable table = store_->LoadPageTable("job", 1).value();
  const std::vector<PageId> ids = {table[2].id, table[0].id, table[1].id,
                                   table[0].id, kZeroPageId, table[0].id};
  const uint64_t seeds[] = {0, 1, 2, 1, 0, 1};
  std::vector<int> given(ids.size());
  ASSERT_TRUE(store_->ReadPages(ids, [&](size_t i, const uint8_t* page) {
    ++given[i];
    EXPECT_EQ(std::memcmp(page, MakePage(seeds[i]).data(), kPageSize), 0);
    return absl::OkStatus();
  }).ok());
  EXPECT_EQ(given, std::vector<int>(ids.size(), 1));
  auto stopped = store_->ReadPages(ids, [&](size_t, const uint8_t*) {
    return absl::CancelledError("enough");
  });
  EXPECT_EQ(stopped.code(), absl::StatusCode::kCancelled);
  auto unknown = store_->ReadPages(std::vector<PageId>{{1, 2}}, [&](size_t, const uint8_t*) {
    return absl::OkStatus();
  });
  EXPECT_EQ(unknown.code(), absl::StatusCode::kDataLoss);
}

TEST_F(StoreTest, ParanoidStoresADamagedBodyAgain) {
  ASSERT_TRUE(Put(0, {{1, 4}}).ok());
  store_.reset();
  {
    std::fstream pack(path_ + "/packs/00000001.pack");
    pack.seekp(4096 + 64 + 100);
    pack.write("damage", 6);
  }
  StoreOptions options = Creating();
  options.paranoid = true;
  Reopen(options);
  auto record = Put(1, {{1, 4}, {2, 4}, {3, 5}, {4, 5}});
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->stats().pages_stored(), 2);
  EXPECT_EQ(record->stats().pages_deduplicated(), 2);
  EXPECT_EQ(Difference(*store_, "job", 2, Model({{1, 4}, {2, 4}, {3, 5}, {4, 5}})), "");
  EXPECT_EQ(Difference(*store_, "job", 1, Model({{1, 4}})), "") << "healed";
}

TEST_F(StoreTest, KnownPagesBeyondTheLimitAreFoundInTheDatabase) {
  std::map<uint64_t, uint64_t> pages;
  for (uint64_t page = 0; page < 1000; ++page) pages[page] = page + 1;
  ASSERT_TRUE(Put(0, pages).ok());
  StoreOptions options = Creating();
  options.max_known_pages = 10;
  Reopen(options);
  auto record = Put(0, pages, "other");
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record->stats().pages_stored(), 0);
  EXPECT_EQ(record->stats().pages_deduplicated(), 1000);
}

}  // namespace
}  // namespace incr
