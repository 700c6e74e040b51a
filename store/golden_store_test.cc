// Every version opens the store that version 1 wrote (testdata/golden_store/store, made by
// this program with --make DIR).
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "store/remake_index.h"
#include "store/store.h"
#include "store/test_pages.h"

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
  if (argc == 3 && std::string(argv[1]) == "--make") {
    const absl::Status made = incr::MakeGoldenStore(argv[2]);
    std::puts(made.ToString().c_str());
    return made.ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
