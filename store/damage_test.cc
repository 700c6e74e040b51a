// Damaged, hostile and vanished files: an error that names the place, never wrong bytes, never a
// crash.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"
#include "store/catalog.h"
#include "store/checksum.h"
#include "store/commit_count.h"
#include "store/kv_db.h"
#include "store/manifest.h"
#include "store/pack_format.h"
#include "store/page_index.h"
#include "store/remake_index.h"
#include "store/repair.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class DamageTest : public ::testing::Test {
 protected:
  DamageTest() {
    for (uint64_t page = 0; page < 200; ++page) model_[{0, page}] = page + 1;
    EXPECT_TRUE(Write("job", 0, model_).ok());
  }

  static StoreOptions Creating() {
    StoreOptions options;
    options.create_if_missing = true;
    return options;
  }

  absl::StatusOr<pb::EpochRecord> Write(const std::string& job, uint64_t parent,
                                        const ModelTable& model) {
    INCR_ASSIGN_OR_RETURN(auto store, Store::Open(path_, Creating()));
    INCR_ASSIGN_OR_RETURN(auto writer, store->BeginEpoch(job, parent));
    for (const auto& [place, seed] : model) {
      INCR_RETURN_IF_ERROR(
          writer->AddPages(place.first, {place.second, 1}, MakePage(seed).data()));
    }
    return writer->Commit({}, "image");
  }

  std::string Read() {
    auto reader = StoreReader::Open(path_);
    if (!reader.ok()) return reader.status().ToString();
    return Difference(**reader, "job", 1, model_);
  }

  // Where every byte of `table` may be changed by hand.
  void EditDatabase(const std::function<void(KvDb&)>& edit) {
    auto db = KvDb::Open(path_ + "/db", KvDb::Mode::kReadWrite);
    ASSERT_TRUE(db.ok()) << db.status();
    edit(**db);
    ASSERT_TRUE((*db)->Sync().ok());
  }

  // The log that holds the last epoch.
  std::string Log() {
    std::string log;
    for (const auto& file : fs::directory_iterator(path_ + "/db")) {
      if (file.path().extension() == ".log" && file.file_size() > 0) log = file.path();
    }
    return log;
  }

  void ExpectCommitsMissing(uint64_t acknowledged, uint64_t counted) {
    const absl::Status status = Store::Open(path_, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(),
                HasSubstr("store " + path_ + ": " + std::to_string(acknowledged) +
                          " commits were acknowledged, its database knows " +
                          std::to_string(counted)));
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  const std::string pack_ = path_ + "/packs/00000001.pack";
  ModelTable model_;
};

TEST_F(DamageTest, AFlippedByteOfAPackIsNamedAndNeverHandedOut) {
  ASSERT_EQ(Read(), "");
  const std::string original = ReadWholeFile(pack_).value();
  std::mt19937 random(5);
  int noticed = 0;
  for (int round = 0; round < 60; ++round) {
    std::string damaged = original;
    const size_t at = random() % damaged.size();
    damaged[at] ^= 1 << random() % 8;
    std::ofstream(pack_, std::ios::binary) << damaged;
    auto reader = StoreReader::Open(path_);
    ASSERT_TRUE(reader.ok());
    const std::string difference = Difference(**reader, "job", 1, model_);
    if (difference.empty()) continue;  // In a header, a table or the padding.
    ++noticed;
    EXPECT_THAT(difference, HasSubstr("DATA_LOSS"));
    EXPECT_THAT(difference, HasSubstr("00000001.pack"));
    EXPECT_THAT(difference, HasSubstr("offset"));
  }
  EXPECT_GT(noticed, 30);
  std::ofstream(pack_, std::ios::binary) << original;
  EXPECT_EQ(Read(), "");
}

TEST_F(DamageTest, ATruncatedOrMissingPackIsNamed) {
  fs::resize_file(pack_, fs::file_size(pack_) / 2);
  EXPECT_THAT(Read(), HasSubstr("DATA_LOSS"));
  EXPECT_THAT(Read(), HasSubstr("00000001.pack"));
  fs::remove(pack_);
  EXPECT_THAT(Read(), HasSubstr("DATA_LOSS"));
  EXPECT_THAT(Read(), HasSubstr("00000001.pack"));
}

TEST_F(DamageTest, PagesOfATruncatedPackAreStoredAnew) {
  fs::resize_file(pack_, fs::file_size(pack_) / 2);
  auto record = Write("other", 0, model_);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_GT(record->stats().pages_stored(), 50);
  EXPECT_GT(record->stats().pages_deduplicated(), 50);
  auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(Difference(**reader, "other", 1, model_), "");
  EXPECT_EQ(Read(), "") << "the old epoch shares the new bodies";
}

TEST_F(DamageTest, TailsOfUnknownOriginAreCutAndNeverTrusted) {
  const auto size = fs::file_size(pack_);
  { std::ofstream(pack_, std::ios::app | std::ios::binary) << std::string(50000, 'x'); }
  fs::copy_file(pack_, path_ + "/packs/00000009.pack");
  ASSERT_TRUE(Store::Open(path_, {}).ok());
  EXPECT_EQ(fs::file_size(pack_), size);
  EXPECT_FALSE(fs::exists(path_ + "/packs/00000009.pack"));
  EXPECT_EQ(Read(), "");
}

TEST_F(DamageTest, TheIndexIsMadeAnewFromPacksAlone) {
  EditDatabase([](KvDb& db) { ASSERT_TRUE(db.DeleteAll(KvTable::kPages).ok()); });
  EXPECT_THAT(Read(), HasSubstr("not in the index"));
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->pages, 200);
  EXPECT_EQ(result->bodies_lost, 0);
  EXPECT_EQ(result->epochs_kept, 1);
  EXPECT_EQ(Read(), "");
  ASSERT_TRUE(Store::Open(path_, {}).ok());
  EXPECT_EQ(Read(), "");
}

TEST_F(DamageTest, ARepairWithoutAnIndexPassesOverDamage) {
  ModelTable more;
  for (uint64_t page = 0; page < 100; ++page) more[{0, page}] = 1000 + page;
  ASSERT_TRUE(Write("job", 1, more).ok());
  const auto size = fs::file_size(pack_);
  {
    std::fstream pack(pack_);
    pack.seekp(4096 + 20);  // The first segment's header.
    pack.write("xxxx", 4);
    pack.seekp(size - 4096 * 20);  // Some body of the second.
    pack.write("yyyy", 4);
  }
  auto result = RemakeIndex(path_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->pages + result->bodies_lost, 100) << "of the first segment nothing is left to go by";
  EXPECT_LE(result->bodies_lost, 1);
}

TEST_F(DamageTest, ARepairWithoutADatabaseKeepsThePages) {
  fs::remove_all(path_ + "/db");
  auto store = Store::Open(path_, {});
  EXPECT_FALSE(store.ok()) << "an empty database would make every pack look unknown";
  EXPECT_TRUE(fs::exists(pack_));
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->pages, 200);
  auto record = Write("job", 0, model_);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->stats().pages_stored(), 0);
}

TEST_F(DamageTest, DamagedDatabaseFilesAreErrorsNotCrashes) {
  std::mt19937 random(11);
  const std::string copy = directory_ / "copy";
  for (int round = 0; round < 30; ++round) {
    fs::remove_all(copy);
    fs::copy(path_, copy, fs::copy_options::recursive);
    std::vector<std::string> files;
    for (const auto& file : fs::directory_iterator(copy + "/db")) {
      if (fs::file_size(file) > 0) files.push_back(file.path());
    }
    std::sort(files.begin(), files.end());
    const std::string& victim = files[random() % files.size()];
    std::string bytes = ReadWholeFile(victim).value();
    if (random() % 3 == 0) bytes.resize(random() % bytes.size());
    for (int flips = random() % 4; flips > 0 && !bytes.empty(); --flips) {
      bytes[random() % bytes.size()] ^= 1 + random() % 255;
    }
    std::ofstream(victim, std::ios::binary) << bytes;
    auto reader = StoreReader::Open(copy);
    if (!reader.ok()) continue;
    (void)(*reader)->ListJobs();
    (void)(*reader)->ReadImage("job", 1);
    const std::string difference = Difference(**reader, "job", 1, model_);
    EXPECT_THAT(difference, ::testing::Not(HasSubstr("wrong bytes"))) << victim;
  }
}

TEST_F(DamageTest, ALogWithoutAcknowledgedCommitsIsRefusedAndLeftAsItIs) {
  ASSERT_TRUE(Write("job", 1, {{{0, 7}, 900}}).ok());
  ASSERT_TRUE(Write("job", 2, {{{0, 7}, 901}, {{0, 8}, 902}}).ok());
  const std::string log = Log(), original = ReadWholeFile(log).value();
  std::string damaged = original;
  std::fill_n(damaged.begin() + damaged.size() / 3, 20, '\0');
  std::ofstream(log, std::ios::binary) << damaged;
  ExpectCommitsMissing(3, 2);
  ExpectCommitsMissing(3, 2);
  EXPECT_EQ(ReadWholeFile(log).value_or("gone"), damaged);
  EXPECT_EQ(Read(), "") << "a reader opens what is there";
  std::ofstream(log, std::ios::binary) << original;
  auto store = Store::Open(path_, {});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->ListEpochs("job")->size(), 3u);
}

TEST_F(DamageTest, AVanishedLogIsRefusedUntilARepairAcceptsIt) {
  ASSERT_TRUE(Write("job", 1, {{{0, 7}, 900}}).ok());
  fs::remove(Log());
  ExpectCommitsMissing(2, 1);
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  auto record = Write("job", 1, {{{0, 7}, 901}});
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(Read(), "");
  EXPECT_EQ(ReadCommitFile(path_ + "/commits").value(), 3u);
}

TEST_F(DamageTest, AStoreWithoutACommitFileOpensAndGetsOne) {
  const std::string commits = path_ + "/commits";
  EXPECT_EQ(ReadCommitFile(commits).value(), 1u);
  fs::remove(commits);
  ASSERT_TRUE(StoreReader::Open(path_).ok());
  EXPECT_FALSE(fs::exists(commits)) << "readers write nothing";
  ASSERT_TRUE(Store::Open(path_, {}).ok());
  EXPECT_EQ(ReadCommitFile(commits).value(), 1u);
}

TEST_F(DamageTest, OneTornSlotOfTheCommitFileIsPassedOver) {
  const std::string commits = path_ + "/commits";
  ASSERT_TRUE(Write("job", 1, {{{0, 7}, 900}}).ok());
  const std::string original = ReadWholeFile(commits).value();
  for (const size_t slot : {0, 1}) {
    std::string torn = original;
    torn[slot * kCommitSlotBytes + 16] ^= 1;
    std::ofstream(commits, std::ios::binary) << torn;
    EXPECT_GE(ReadCommitFile(commits).value(), 1u);
    EXPECT_TRUE(Store::Open(path_, {}).ok());
  }
  std::ofstream(commits, std::ios::binary) << std::string(8192, 'x');
  const absl::Status status = Store::Open(path_, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr(commits));
  EXPECT_EQ(Read(), "");
  ASSERT_TRUE(RepairStore(path_, {}).ok());
  EXPECT_TRUE(Store::Open(path_, {}).ok());
}

TEST_F(DamageTest, ALostHeadGivesNoEpochNumberTwice) {
  ASSERT_TRUE(Write("job", 1, {{{0, 7}, 900}}).ok());
  EditDatabase([](KvDb& db) { ASSERT_TRUE(db.DeleteAll(KvTable::kJobs).ok()); });
  fs::remove(path_ + "/commits");  // The database's count was among the jobs.
  auto record = Write("job", 1, {{{0, 7}, 901}});
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->epoch(), 3u);
  auto reader = StoreReader::Open(path_);
  ModelTable second = model_;
  second[{0, 7}] = 900;
  EXPECT_EQ(Difference(**reader, "job", 2, second), "");
}

TEST_F(DamageTest, ASymbolicLinkForAPackIsRefusedAndItsTargetUntouched) {
  const std::string target = directory_ / "target";
  const std::string content = ReadWholeFile(pack_).value() + std::string(5000, 'x');
  std::ofstream(target, std::ios::binary) << content;
  fs::remove(pack_);
  fs::create_symlink(target, pack_);
  const absl::Status status = Store::Open(path_, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(status.message(), HasSubstr("00000001.pack is not a regular file"));
  EXPECT_EQ(ReadWholeFile(target).value(), content);
  // One that the database does not know goes, the link alone.
  fs::rename(target, pack_);
  std::ofstream(target, std::ios::binary) << content;
  fs::create_symlink(target, path_ + "/packs/00000009.pack");
  ASSERT_TRUE(Store::Open(path_, {}).ok());
  EXPECT_FALSE(fs::is_symlink(path_ + "/packs/00000009.pack"));
  EXPECT_EQ(ReadWholeFile(target).value(), content);
}

TEST_F(DamageTest, StrayPacksUseUpNoNumbers) {
  std::ofstream(path_ + "/packs/4294967295.pack") << "stray";
  StoreOptions options;
  options.pack_bytes = 1;  // A pack for every epoch.
  auto store = Store::Open(path_, options);
  ASSERT_TRUE(store.ok()) << store.status();
  auto writer = (*store)->BeginEpoch("job", 1);
  ASSERT_TRUE((*writer)->AddPages(0, {1, 1}, MakePage(5000).data()).ok());
  ASSERT_TRUE((*writer)->Commit({}, "").ok());
  EXPECT_TRUE(fs::exists(path_ + "/packs/00000002.pack"));
  EXPECT_FALSE(fs::exists(path_ + "/packs/4294967295.pack"));
}

TEST_F(DamageTest, AfterTheLastPackNumberThereIsAnErrorAndNoOtherPack) {
  EditDatabase([](KvDb& db) {
    std::vector<IndexEntry> none;
    const PackLength last[] = {{UINT32_MAX, 8192}};
    ASSERT_TRUE(WriteIndex(db, last, none).ok());
  });
  StoreOptions options;
  options.pack_bytes = 1;
  auto store = Store::Open(path_, options);
  ASSERT_TRUE(store.ok()) << store.status();
  auto writer = (*store)->BeginEpoch("job", 1);
  ASSERT_TRUE(writer.ok());
  (void)(*writer)->AddPages(0, {1, 1}, MakePage(5000).data());
  const absl::Status status = (*writer)->Commit({}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(status.message(), HasSubstr("packs: pack 4294967295"));
  EXPECT_EQ(std::distance(fs::directory_iterator(path_ + "/packs"), {}), 1);
}

TEST_F(DamageTest, HostileIndexEntriesAreErrors) {
  auto reader = StoreReader::Open(path_);
  const PageId id = (*reader)->LoadPageTable("job", 1).value()[0].id;
  reader->reset();
  const PageLocation hostile[] = {{1, uint64_t{1} << 59, 4096, PageEncoding::kRaw},
                                  {1, 4096, 4000, PageEncoding::kLz4},
                                  {4000000000, 4096, 1, PageEncoding::kLz4},
                                  {1, 4160, 4096, PageEncoding::kRaw}};
  for (const PageLocation& location : hostile) {
    EditDatabase([&](KvDb& db) {
      std::vector<IndexEntry> entries = {{id, location}};
      ASSERT_TRUE(WriteIndex(db, {}, entries).ok());
    });
    EXPECT_THAT(Read(), HasSubstr("DATA_LOSS"));
  }
  for (const std::string& value : {std::string(), std::string(16, '\xff'), std::string(5, 'x')}) {
    EditDatabase([&](KvDb& db) {
      char key[kPageIdBytes];
      EncodePageId(id, key);
      KvBatch batch;
      batch.Add(KvTable::kPages, std::string(key, sizeof key), value);
      ASSERT_TRUE(db.Write(batch, true).ok());
    });
    EXPECT_THAT(Read(), HasSubstr("DATA_LOSS"));
    EXPECT_TRUE(Store::Open(path_, {}).ok());
  }
}

TEST_F(DamageTest, HostileChainsAreErrors) {
  // Whole in itself: only what the case is about can be wrong.
  const std::string manifest = EncodeManifest({});
  EpochEnvelope good;
  good.record.set_job("job");
  good.record.set_epoch(2);
  good.record.set_parent(1);
  good.record.set_table_pages(model_.size());
  good.depth = 1;
  good.manifest_bytes = manifest.size();
  good.manifest_checksum = Checksum64(manifest);
  auto load = [&](const EpochEnvelope& envelope) {
    EditDatabase([&](KvDb& db) {
      ASSERT_TRUE(WriteChunks(db, KvTable::kManifests, "job", 2, manifest).ok());
      ASSERT_TRUE(WriteHead(db, envelope, 2).ok());
    });
    auto reader = StoreReader::Open(path_);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return (*reader)->LoadPageTable("job", 2).status();
  };
  ASSERT_TRUE(load(good).ok());
  struct Case {
    uint64_t parent;
    uint32_t depth;
    const char* message;
  };
  for (const Case& c : {Case{0, 0, "its table has 0 pages instead of 200"},
                        {1, 0, "its table has 0 pages instead of 200"},
                        {0, 1, "its chain is broken"},
                        {0, 2, "its chain is broken"},
                        {0, ~0u, "its chain is broken"},
                        {1, 2, "epoch 1 of job job: out of place in the chain"},
                        {1, ~0u, "epoch 1 of job job: out of place in the chain"},
                        {2, 0, "record of another epoch"},
                        {2, 1, "record of another epoch"},
                        {77, 1, "record of another epoch"}}) {
    SCOPED_TRACE(std::to_string(c.parent) + " " + std::to_string(c.depth));
    EpochEnvelope envelope = good;
    envelope.record.set_parent(c.parent);
    envelope.depth = c.depth;
    const absl::Status status = load(envelope);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
  EpochEnvelope envelope = good;
  envelope.manifest_bytes = kMaxManifestBytes;
  EXPECT_THAT(load(envelope).message(), HasSubstr("chunk 0 of its manifest is missing"));
  envelope = good;
  envelope.manifest_checksum ^= 1;
  EXPECT_THAT(load(envelope).message(), HasSubstr("manifest damaged (checksum)"));
  envelope = good;
  envelope.record.set_table_pages(model_.size() + 1);
  EXPECT_THAT(load(envelope).message(), HasSubstr("its table has 200 pages instead of 201"));
  envelope = good;
  envelope.record.set_job("other");
  EditDatabase([&](KvDb& db) { ASSERT_TRUE(WriteHead(db, envelope, 2).ok()); });
  auto reader = StoreReader::Open(path_);
  EXPECT_THAT((*reader)->LoadPageTable("other", 2).status().message(),
              HasSubstr("chunk 0 of its manifest is missing"));
}

}  // namespace
}  // namespace incr
