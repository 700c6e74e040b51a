// Readers beside a busy writer: every snapshot whole, no file created or changed.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/clock.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

// Epoch e writes pages [0, 40) with seeds from e, and a large image so that RocksDB flushes.
uint64_t SeedOf(uint64_t epoch, uint64_t page) { return epoch * 1000 + page; }

absl::Status WriteEpoch(Store& store, uint64_t epoch) {
  INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch("job", epoch - 1));
  for (uint64_t page = 0; page < 40; ++page) {
    INCR_RETURN_IF_ERROR(writer->AddPages(0, {page, 1}, MakePage(SeedOf(epoch, page)).data()));
  }
  return writer->Commit({}, std::string(400'000, char('a' + epoch % 26))).status();
}

ModelTable ModelOf(uint64_t epoch) {
  ModelTable model;
  for (uint64_t page = 0; page < 40; ++page) model[{0, page}] = SeedOf(epoch, page);
  return model;
}

StoreOptions Creating() {
  StoreOptions options;
  options.create_if_missing = true;
  options.full_table_every = 5;
  return options;
}

TEST(LiveReaderTest, EverySnapshotBesideALiveWriterIsWhole) {
  TempDirectory directory;
  const std::string path = directory / "store";
  auto store = Store::Open(path, Creating());
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE(WriteEpoch(**store, 1).ok());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> committed{1};
  std::thread writer([&] {
    for (uint64_t epoch = 2; !stop; ++epoch) {
      const absl::Status status = WriteEpoch(**store, epoch);
      EXPECT_TRUE(status.ok()) << status;
      if (!status.ok()) return;
      committed = epoch;
      ::usleep(10'000);  // Some 30 MB/s; without a pause the machine's readers hardly get a turn.
    }
  });
  auto kept = StoreReader::Open(path);
  EXPECT_TRUE(kept.ok()) << kept.status();
  const uint64_t kept_head = kept.ok() ? (*kept)->ListEpochs("job")->size() : 0;
  uint64_t last = 0;
  const Stopwatch time;
  for (int round = 0; round < 60 && !testing::Test::HasFailure(); ++round) {
    if (time.elapsed_us() > 8'000'000 && last > 30) break;
    const uint64_t before = committed;
    auto reader = StoreReader::Open(path);
    EXPECT_TRUE(reader.ok()) << reader.status();
    if (!reader.ok()) break;
    auto records = (*reader)->ListEpochs("job");
    EXPECT_TRUE(records.ok()) << records.status();
    if (!records.ok()) break;
    const uint64_t head = records->size();
    EXPECT_GE(head, before) << "a committed epoch is missing";
    for (const uint64_t epoch : {head, head / 2 + 1, uint64_t{1}}) {
      EXPECT_EQ(Difference(**reader, "job", epoch, ModelOf(epoch)), "") << epoch << "/" << head;
      EXPECT_EQ((*reader)->ReadImage("job", epoch).value_or("?").size(), 400'000);
    }
    last = head;
  }
  // An old snapshot stays readable although files were compacted away meanwhile.
  if (kept.ok()) {
    EXPECT_EQ((*kept)->ListEpochs("job")->size(), kept_head);
    EXPECT_EQ(Difference(**kept, "job", kept_head, ModelOf(kept_head)), "");
    EXPECT_TRUE((*kept)->Refresh().ok());
    EXPECT_GE((*kept)->ListEpochs("job")->size(), last);
  }
  stop = true;
  writer.join();
  EXPECT_GT(last, 20);
}

TEST(LiveReaderTest, ReadingChangesNoFile) {
  TempDirectory directory;
  const std::string path = directory / "store";
  {
    auto store = Store::Open(path, Creating());
    ASSERT_TRUE(store.ok());
    for (uint64_t epoch = 1; epoch <= 12; ++epoch) ASSERT_TRUE(WriteEpoch(**store, epoch).ok());
  }
  auto files = [&] {
    std::map<std::string, std::pair<uint64_t, fs::file_time_type>> result;
    for (const auto& file : fs::recursive_directory_iterator(path)) {
      result[file.path()] = {file.is_regular_file() ? file.file_size() : 0,
                             file.last_write_time()};
    }
    return result;
  };
  const auto before = files();
  auto reader = StoreReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(Difference(**reader, "job", 12, ModelOf(12)), "");
  reader->reset();
  EXPECT_EQ(files(), before);
  for (const auto& [name, unused] : before) {
    EXPECT_EQ(name.find("/LOG"), std::string::npos) << "RocksDB's log files are not wanted";
  }
}

}  // namespace
}  // namespace incr
