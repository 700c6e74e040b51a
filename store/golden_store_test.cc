// Every version opens the stores that earlier ones wrote, and takes in what they exported: testdata/golden_store/store,
// of the first version, and collected_store, of one that gc has been at (zstd bodies, records of version 2, a
// generation). This program made them, with --make DIR and --make-collected DIR.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include "store/remake_index.h"
#include "base/file.h"
#include "store/catalog.h"
#include "store/export.h"
#include "store/import.h"
#include "store/kv_db.h"
#include "store/page_index.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/verify.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

constexpr char kGolden[] = "testdata/golden_store/store";

struct GoldenEpoch {
  uint64_t parent;
  ModelTable written;
  std::vector<PageRange> gone;
};

// Bodies raw and compressed, zero pages, drops, two spaces, a full table, a branch.
std::vector<GoldenEpoch> GoldenEpochs() {
  return {{0, {{{0, 16}, 1}, {{0, 17}, 4}, {{0, 18}, 0}, {{1, 16}, 2}}, {}},
          {1, {{{0, 17}, 5}, {{0, 1000}, 0}}, {{18, 1}}},
          {2, {{{0, 40}, 1}}, {}},
          {3, {{{0, 41}, 6}}, {}},
          {2, {{{1, 16}, 0}}, {{16, 1}}}};
}

std::string GoldenImage(uint64_t epoch) { return "image of epoch " + std::to_string(epoch); }

std::vector<ModelTable> GoldenModels() {
  std::vector<ModelTable> models;
  for (const GoldenEpoch& epoch : GoldenEpochs()) {
    ModelTable model = epoch.parent == 0 ? ModelTable() : models[epoch.parent - 1];
    for (const PageRange& gone : epoch.gone) {
      model.erase(model.lower_bound({0, gone.first}), model.lower_bound({0, gone.end()}));
    }
    for (const auto& [place, seed] : epoch.written) model[place] = seed;
    models.push_back(std::move(model));
  }
  return models;
}

absl::Status MakeGoldenStore(const std::string& directory) {
  StoreOptions options;
  options.create_if_missing = true;
  options.full_table_every = 3;
  INCR_ASSIGN_OR_RETURN(auto store, Store::Open(directory, options));
  for (const GoldenEpoch& epoch : GoldenEpochs()) {
    if (epoch.parent == 3) {  // What came before is then in table files, the rest in the log.
      store.reset();
      INCR_ASSIGN_OR_RETURN(store, Store::Open(directory, options));
    }
    INCR_ASSIGN_OR_RETURN(auto writer, store->BeginEpoch("golden", epoch.parent));
    for (const PageRange& gone : epoch.gone) INCR_RETURN_IF_ERROR(writer->AddGone(0, gone));
    for (const auto& [place, seed] : epoch.written) {
      INCR_RETURN_IF_ERROR(
          writer->AddPages(place.first, {place.second, 1}, MakePage(seed).data()));
    }
    pb::EpochRecord record;
    record.set_pid(4711);
    INCR_RETURN_IF_ERROR(writer->Commit(record, GoldenImage(writer->epoch())).status());
  }
  return absl::OkStatus();
}

constexpr char kCollected[] = "testdata/golden_store/collected_store";
constexpr char kExported[] = "testdata/golden_store/golden.incr";

// What gc leaves: epochs 2 and 3 of three, in a new pack, with a new table.
std::map<uint64_t, ModelTable> CollectedModels() {
  ModelTable second, third;
  for (uint64_t page = 0; page < 12; ++page) second[{1, page}] = page * 3;
  third = second;
  third[{1, 4}] = 1001;
  third[{2, 9}] = 0;
  return {{2, second}, {3, third}};
}

absl::Status MakeCollectedStore(const std::string& directory) {
  StoreOptions options;
  options.create_if_missing = true;
  options.pack_bytes = 1;  // A pack for each epoch.
  {
    INCR_ASSIGN_OR_RETURN(auto store, Store::Open(directory, options));
    ModelTable before;
    for (uint64_t page = 0; page < 40; ++page) before[{1, page}] = page < 12 ? page * 3 : 4 * page;
    const std::map<uint64_t, ModelTable> models = CollectedModels();
    for (uint64_t epoch = 1; epoch <= 3; ++epoch) {
      const ModelTable& model = epoch == 1 ? before : models.at(epoch);
      INCR_ASSIGN_OR_RETURN(auto writer, store->BeginEpoch("golden", epoch - 1));
      if (epoch == 2) INCR_RETURN_IF_ERROR(writer->AddGone(1, {12, 28}));
      for (const auto& [place, seed] : model) {
        INCR_RETURN_IF_ERROR(writer->AddPages(place.first, {place.second, 1}, MakePage(seed).data()));
      }
      INCR_RETURN_IF_ERROR(writer->Commit({}, GoldenImage(epoch)).status());
    }
    GcOptions gc;
    gc.policy.keep_last = 2;
    gc.recompress_zstd = true;
    INCR_RETURN_IF_ERROR(store->CollectGarbage(gc).status());
  }
  INCR_ASSIGN_OR_RETURN(const auto reader, StoreReader::Open(directory));
  INCR_ASSIGN_OR_RETURN(ExportFile file, ExportFile::Open(directory + "/../golden.incr"));
  INCR_RETURN_IF_ERROR(ExportEpochs(*reader, "golden", {2, 3}, file.fd(), file.name(), nullptr).status());
  return file.Finish();
}

void ExpectCollectedEpochs(const StoreReader& store, const std::string& job, uint64_t first) {
  const auto records = store.ListEpochs(job);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 2u);
  for (const auto& [epoch, model] : CollectedModels()) {
    EXPECT_EQ(Difference(store, job, first + epoch - 2, model), "") << epoch;
    EXPECT_EQ(store.ReadImage(job, first + epoch - 2).value_or("?"), GoldenImage(epoch));
  }
  EXPECT_EQ((*records)[0].parent(), 0u);
  EXPECT_EQ((*records)[1].parent(), first);
}

class CollectedStoreTest : public ::testing::Test {
 protected:
  CollectedStoreTest() { fs::copy(kCollected, path_, fs::copy_options::recursive); }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(CollectedStoreTest, ItIsOfTheFormsThatItIsFor) {
  const auto db = KvDb::Open(path_ + "/db", KvDb::Mode::kReadOnly);
  ASSERT_TRUE(db.ok()) << db.status();
  int zstd = 0;
  ASSERT_TRUE(ForEachPage(**db, [&](const IndexEntry& entry) {
                zstd += entry.location.encoding == PageEncoding::kZstd;
                return absl::OkStatus();
              }).ok());
  EXPECT_GT(zstd, 3);
  const auto record = Catalog(db->get()).GetEpoch("golden", 2);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->first_chunk, kOtherFirstChunk) << "a record of version 2";
  EXPECT_EQ(Catalog(db->get()).GetEpoch("golden", 3)->depth, 1u);
  EXPECT_EQ(fs::file_size(path_ + "/generation"), 24u);
  EXPECT_EQ(fs::file_size(path_ + "/commits"), 8192u);
}

TEST_F(CollectedStoreTest, EverythingInItIsWhole) {
  const auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  ExpectCollectedEpochs(**reader, "golden", 2);
  const auto report = VerifyStore(path_, {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->ok());
}

TEST_F(CollectedStoreTest, AWriterAndAGcGoOnFromIt) {
  auto store = Store::Open(path_, {});
  ASSERT_TRUE(store.ok()) << store.status();
  auto writer = (*store)->BeginEpoch("golden", 3);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->AddPages(1, {500, 1}, MakePage(3).data()).ok());
  const auto record = (*writer)->Commit({}, "");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->epoch(), 4u);
  EXPECT_EQ(record->stats().pages_deduplicated(), 1u) << "page ids changed";
  GcOptions gc;
  gc.policy.keep_last = 1;
  const auto collected = (*store)->CollectGarbage(gc);
  ASSERT_TRUE(collected.ok()) << collected.status();
  ModelTable model = CollectedModels()[3];
  model[{1, 500}] = 3;
  EXPECT_EQ(Difference(**store, "golden", 4, model), "");
}

TEST_F(CollectedStoreTest, ItsIndexCanBeMadeAnew) {
  const auto result = RemakeIndex(path_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->bodies_lost, 0u);
  const auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  ExpectCollectedEpochs(**reader, "golden", 2);
}

TEST(GoldenExportTest, ItIsTakenIn) {
  TempDirectory directory;
  StoreOptions options;
  options.create_if_missing = true;
  auto store = Store::Open(directory / "store", options);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto file = OpenFile(kExported, O_RDONLY);
  ASSERT_TRUE(file.ok()) << file.status();
  ImportOptions import;
  import.job = "taken";
  const auto result = ImportEpochs(store->get(), file->get(), import);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectCollectedEpochs(**store, "taken", 1);
}

class GoldenStoreTest : public ::testing::Test {
 protected:
  GoldenStoreTest() { fs::copy(kGolden, path_, fs::copy_options::recursive); }

  void ExpectAllEpochs(const StoreReader& store) {
    const std::vector<ModelTable> models = GoldenModels();
    auto records = store.ListEpochs("golden");
    ASSERT_TRUE(records.ok()) << records.status();
    ASSERT_EQ(records->size(), models.size());
    for (uint64_t epoch = 1; epoch <= models.size(); ++epoch) {
      EXPECT_EQ(Difference(store, "golden", epoch, models[epoch - 1]), "") << epoch;
      EXPECT_EQ(store.ReadImage("golden", epoch).value_or("?"), GoldenImage(epoch));
      EXPECT_EQ((*records)[epoch - 1].pid(), 4711u);
    }
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(GoldenStoreTest, AReaderReadsEveryEpoch) {
  auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  ExpectAllEpochs(**reader);
}

TEST_F(GoldenStoreTest, AWriterGoesOnFromIt) {
  auto store = Store::Open(path_, {});
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectAllEpochs(**store);
  auto writer = (*store)->BeginEpoch("golden", 5);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->AddPages(0, {500, 1}, MakePage(1).data()).ok());
  auto record = (*writer)->Commit({}, "");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->stats().pages_deduplicated(), 1u) << "page ids changed";
  ModelTable model = GoldenModels()[4];
  model[{0, 500}] = 1;
  EXPECT_EQ(Difference(**store, "golden", 6, model), "");
}

TEST_F(GoldenStoreTest, ItsIndexCanBeMadeAnew) {
  auto result = RemakeIndex(path_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->pages, 5u);
  EXPECT_EQ(result->bodies_lost, 0u);
  auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  ExpectAllEpochs(**reader);
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]).rfind("--make", 0) == 0) {
    const bool collected = std::string(argv[1]) == "--make-collected";
    const absl::Status made = collected ? incr::MakeCollectedStore(argv[2]) : incr::MakeGoldenStore(argv[2]);
    std::puts(made.ToString().c_str());
    return made.ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
