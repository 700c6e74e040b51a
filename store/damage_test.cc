// Damaged, hostile and vanished files: an error that names the place, never wrong bytes, never a
// crash.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"
#include "store/catalog.h"
#include "store/kv_db.h"
#include "store/manifest.h"
#include "store/pack_format.h"
#include "store/page_index.h"
#include "store/rebuild_index.h"
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

TEST_F(DamageTest, TheIndexIsRebuiltFromPacksAlone) {
  EditDatabase([](KvDb& db) { ASSERT_TRUE(db.DeleteAll(KvTable::kPages).ok()); });
  EXPECT_THAT(Read(), HasSubstr("not in the index"));
  auto result = RebuildIndex(path_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->pages, 200);
  EXPECT_EQ(result->damaged_pages, 0);
  EXPECT_EQ(Read(), "");
  ASSERT_TRUE(Store::Open(path_, {}).ok());
  EXPECT_EQ(Read(), "");
}

TEST_F(DamageTest, ARebuildPassesOverDamage) {
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
  auto result = RebuildIndex(path_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->skipped_bytes, 0);
  EXPECT_EQ(result->segments, 1);
  EXPECT_EQ(result->pages + result->damaged_pages, 100);
  EXPECT_LE(result->damaged_pages, 1);
}

TEST_F(DamageTest, ARebuildWithoutADatabaseKeepsThePages) {
  fs::remove_all(path_ + "/db");
  auto store = Store::Open(path_, {});
  EXPECT_FALSE(store.ok()) << "an empty database would make every pack look unknown";
  EXPECT_TRUE(fs::exists(pack_));
  auto result = RebuildIndex(path_);
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
  EpochEnvelope envelope;
  envelope.record.set_job("job");
  envelope.record.set_epoch(2);
  const std::string manifest = EncodeManifest({});
  for (const uint64_t parent : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{77}}) {
    for (const uint32_t depth : {0u, 1u, 2u, ~0u}) {
      envelope.record.set_parent(parent);
      envelope.depth = depth;
      envelope.manifest_bytes = depth == 2 ? kMaxManifestBytes : manifest.size();
      EditDatabase([&](KvDb& db) {
        ASSERT_TRUE(WriteChunks(db, KvTable::kManifests, "job", 2, manifest).ok());
        ASSERT_TRUE(WriteHead(db, envelope).ok());
      });
      auto reader = StoreReader::Open(path_);
      ASSERT_TRUE(reader.ok());
      EXPECT_EQ((*reader)->LoadPageTable("job", 2).status().code(), absl::StatusCode::kDataLoss)
          << parent << " " << depth;
    }
  }
}

}  // namespace
}  // namespace incr
