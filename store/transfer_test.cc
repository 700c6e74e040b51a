// Export and import: epochs equal byte for byte in another store with another secret; a file that is cut or
// altered anywhere is refused whole; a killed import leaves nothing.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "base/fault_point.h"
#include "base/file.h"
#include "store/checksum.h"
#include "store/export.h"
#include "store/export_format.h"
#include "store/import.h"
#include "store/self_child.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/verify.h"

namespace incr {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

StoreOptions Creating() {
  StoreOptions options;
  options.create_if_missing = true;
  options.full_table_every = 3;
  return options;
}

std::string ImageOf(uint64_t epoch) { return std::string(epoch * 300'000, static_cast<char>('a' + epoch)); }

class TransferTest : public ::testing::Test {
 protected:
  TransferTest() {
    auto store = Store::Open(from_, Creating());
    EXPECT_TRUE(store.ok()) << store.status();
    std::mt19937_64 random(3);
    ModelTable model;
    for (uint64_t epoch = 1; epoch <= 5; ++epoch) {
      auto writer = (*store)->BeginEpoch("job", epoch - 1);
      EXPECT_TRUE(writer.ok()) << writer.status();
      for (int i = epoch == 1 ? 700 : 60; i > 0; --i) {
        const uint64_t page = random() % 900, seed = random() % 4000;
        const uint32_t space = random() % 3 == 0 ? 1u << 24 : 1;
        model[{space, page}] = seed;
        EXPECT_TRUE((*writer)->AddPages(space, {page, 1}, MakePage(seed).data()).ok());
      }
      pb::EpochRecord record;
      record.set_pid(70 + epoch);
      record.set_tracker("none");
      EXPECT_TRUE((*writer)->Commit(record, ImageOf(epoch)).ok());
      models_[epoch] = model;
    }
  }

  absl::StatusOr<ExportResult> Export(const std::vector<uint64_t>& epochs) {
    INCR_ASSIGN_OR_RETURN(auto reader, StoreReader::Open(from_));
    INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(file_, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    return ExportEpochs(*reader, "job", epochs, fd.get(), file_, nullptr);
  }

  absl::StatusOr<ImportResult> Import(const std::string& job, const std::string& file) {
    INCR_ASSIGN_OR_RETURN(auto store, Store::Open(to_, Creating()));
    INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(file, O_RDONLY));
    return ImportEpochs(store.get(), fd.get(), {job, file, nullptr, nullptr});
  }

  // Epoch `there` of the first store is epoch `here` of `job` in the second.
  void ExpectEqual(const std::string& job, uint64_t here, uint64_t there) {
    auto to = StoreReader::Open(to_), from = StoreReader::Open(from_);
    ASSERT_TRUE(to.ok() && from.ok());
    EXPECT_EQ(Difference(**to, job, here, models_[there]), "");
    EXPECT_EQ((*to)->ReadImage(job, here).value_or("unreadable"), ImageOf(there));
    auto record = (*to)->GetEpoch(job, here), original = (*from)->GetEpoch("job", there);
    ASSERT_TRUE(record.ok() && original.ok());
    EXPECT_EQ(record->pid(), original->pid());
    EXPECT_EQ(record->tracker(), original->tracker());
    EXPECT_EQ(record->table_pages(), original->table_pages());
  }

  bool Empty() {
    auto reader = StoreReader::Open(to_);
    return !reader.ok() || (*reader)->ListJobs().empty();
  }

  TempDirectory directory_;
  const std::string from_ = directory_ / "from", to_ = directory_ / "to", file_ = directory_ / "file.incr";
  std::map<uint64_t, ModelTable> models_;
};

TEST_F(TransferTest, EpochsAreEqualByteForByteInAnotherStore) {
  auto exported = Export({1, 3, 5});
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(exported->bytes, fs::file_size(file_));
  auto imported = Import("", file_);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->job, "job");
  ASSERT_EQ(imported->epochs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(imported->epochs[i].epoch, i + 1);
    EXPECT_EQ(imported->epochs[i].parent, i) << "parents are mapped";
    EXPECT_EQ(imported->epochs[i].from_epoch, 2 * i + 1);
    ExpectEqual("job", i + 1, 2 * i + 1);
  }
  EXPECT_EQ(imported->pages, exported->pages);
  EXPECT_EQ(imported->pages_stored, exported->pages) << "each page once";
  EXPECT_NE(ReadWholeFile(from_ + "/secret").value(), ReadWholeFile(to_ + "/secret").value());
  EXPECT_TRUE(VerifyStore(to_, {})->ok());
}

TEST_F(TransferTest, ASecondImportTakesTheNextNumbersAndStoresNoPage) {
  ASSERT_TRUE(Export({2, 4}).ok());
  ASSERT_TRUE(Import("", file_).ok());
  auto again = Import("", file_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->pages_stored, 0u);
  EXPECT_EQ(again->epochs[0].epoch, 3u);
  EXPECT_EQ(again->epochs[0].parent, 0u);
  EXPECT_EQ(again->epochs[1].parent, 3u);
  auto other = Import("other-name", file_);
  ASSERT_TRUE(other.ok()) << other.status();
  ExpectEqual("job", 4, 4);
  ExpectEqual("other-name", 1, 2);
  // And the job goes on from there.
  auto store = Store::Open(to_, {});
  auto writer = (*store)->BeginEpoch("job", 4);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->AddPages(1, {7, 1}, MakePage(5).data()).ok());
  ASSERT_TRUE((*writer)->Commit({}, "").ok());
  ModelTable model = models_[4];
  model[{1, 7}] = 5;
  EXPECT_EQ(Difference(**store, "job", 5, model), "");
}

TEST_F(TransferTest, WhatGcHasMovedAndRecompressedIsEqualByteForByte) {
  {
    auto store = Store::Open(from_, {});
    ASSERT_TRUE(store.ok()) << store.status();
    GcOptions gc;
    gc.policy.keep = {2, 5};
    gc.recompress_zstd = true;
    auto collected = (*store)->CollectGarbage(gc);
    ASSERT_TRUE(collected.ok()) << collected.status();
    EXPECT_GT(collected->packs_rewritten, 0u);
    EXPECT_GT(collected->epochs_rewritten, 0u);
  }
  auto exported = Export({2, 5});
  ASSERT_TRUE(exported.ok()) << exported.status();
  auto imported = Import("", file_);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->epochs[1].parent, 1u);
  ExpectEqual("job", 1, 2);
  ExpectEqual("job", 2, 5);
  EXPECT_TRUE(VerifyStore(to_, {})->ok());
}

TEST_F(TransferTest, APipeIsAsGoodAsAFile) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  auto reader = StoreReader::Open(from_);
  std::thread writer([&] {
    EXPECT_TRUE(ExportEpochs(**reader, "job", {5}, ends[1], "pipe", nullptr).ok());
    ::close(ends[1]);
  });
  auto store = Store::Open(to_, Creating());
  auto imported = ImportEpochs(store->get(), ends[0], {"", "pipe", nullptr, nullptr});
  writer.join();
  ::close(ends[0]);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(Difference(**store, "job", 1, models_[5]), "");
}

TEST_F(TransferTest, AFileThatIsCutOrAlteredAnywhereIsRefusedWhole) {
  ASSERT_TRUE(Export({4, 5}).ok());
  const std::string good = ReadWholeFile(file_).value();
  const std::string bad_file = directory_ / "bad.incr";
  auto store = Store::Open(to_, Creating());
  ASSERT_TRUE(store.ok());
  // Where the frames begin, so that every kind of place is hit: in headers, at their edges, in payloads.
  std::vector<size_t> places = {0, 7, 8, 12, 16, 24, 32, 40, 100, 119, 120, 127};
  for (size_t at = kExportHeaderBytes; at < good.size();) {
    uint32_t bytes;
    std::memcpy(&bytes, good.data() + at + 4, 4);
    for (const size_t place : {size_t{0}, size_t{3}, size_t{4}, size_t{7}, size_t{8}, size_t{15}, size_t{16}}) {
      places.push_back(at + place);
    }
    places.push_back(at + kFrameHeaderBytes + bytes / 2);
    at += kFrameHeaderBytes + bytes;
    places.push_back(at - 1);
  }
  std::mt19937_64 random(9);
  for (int i = 0; i < 60; ++i) places.push_back(random() % good.size());
  const auto refused = [&](const std::string& bytes) {
    int ends[2];
    INCR_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    std::thread writer([&] {
      ::signal(SIGPIPE, SIG_IGN);
      (void)WriteExactly(ends[1], bytes.data(), bytes.size(), "pipe");
      ::close(ends[1]);
    });
    const absl::Status status = ImportEpochs(store->get(), ends[0], {"", "bad.incr", nullptr, nullptr}).status();
    ::close(ends[0]);
    writer.join();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.message(), HasSubstr("bad.incr"));
    EXPECT_TRUE((*store)->ListJobs().empty());
  };
  for (const size_t place : places) {
    SCOPED_TRACE(place);
    if (place >= good.size()) continue;
    std::string bad = good;
    bad[place] ^= 1 << random() % 8;
    refused(bad);
    refused(good.substr(0, place));
    if (HasFailure()) return;
  }
  refused(good + "x");
  refused(good + good);
  refused("");
  // Frames whole, but left out, doubled or swapped.
  const auto frame_at = [&](int n) {
    size_t at = kExportHeaderBytes;
    for (uint32_t bytes; n-- > 0; at += kFrameHeaderBytes + bytes) std::memcpy(&bytes, good.data() + at + 4, 4);
    return at;
  };
  const size_t a = frame_at(0), b = frame_at(1), c = frame_at(2);
  refused(good.substr(0, a) + good.substr(b));
  refused(good.substr(0, b) + good.substr(a));
  refused(good.substr(0, a) + good.substr(b, c - b) + good.substr(a, b - a) + good.substr(c));
  store->reset();
  auto report = VerifyStore(to_, {});
  EXPECT_TRUE(report.ok() && report->ok());
  EXPECT_TRUE(Import("", file_).ok());
  ExpectEqual("job", 1, 4);
}

TEST_F(TransferTest, ANewerVersionIsRefusedByName) {
  ASSERT_TRUE(Export({1}).ok());
  std::string newer = ReadWholeFile(file_).value();
  newer[8] = 2;
  const uint64_t sum = Checksum64(newer.data(), 120);
  std::memcpy(newer.data() + 120, &sum, sizeof sum);
  std::ofstream(file_, std::ios::binary) << newer;
  const absl::Status status = Import("", file_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(status.message(), HasSubstr("an export file of version 2; this program reads 1"));
}

TEST_F(TransferTest, AJobThatIsBusyIsRefused) {
  ASSERT_TRUE(Export({1}).ok());
  auto store = Store::Open(to_, Creating());
  auto writer = (*store)->BeginEpoch("job", 0);
  ASSERT_TRUE(writer.ok());
  ScopedFd fd = OpenFile(file_, O_RDONLY).value();
  EXPECT_EQ(ImportEpochs(store->get(), fd.get(), {"", "f", nullptr, nullptr}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// Errors and kills at every step of an import: all of it or nothing, and the next one works.
TEST_F(TransferTest, AnImportThatFailsOrIsKilledIsWholeOrNothing) {
  ASSERT_TRUE(Export({1, 2, 3}).ok());
  for (const char* how : {"error", "kill"}) {
    for (const char* point : {"store.pack_write", "store.after_pack_write", "store.pack_sync", "store.after_pack_sync",
                              "store.kv_write", "store.kv_write_unsure", "store.import_epoch", "store.import_packs",
                              "store.import_index", "store.import_heads"}) {
      SCOPED_TRACE(std::string(point) + "=" + how);
      fs::remove_all(to_);
      { ASSERT_TRUE(Store::Open(to_, Creating()).ok()); }
      const int status = SelfChild({"--import", to_, file_}, std::string(point) + "=" + how + ":1").Wait();
      if (std::string(how) == "kill") {
        ASSERT_TRUE(WIFSIGNALED(status)) << "not passed: " << status;
      } else {
        ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) < 2) << status;
      }
      const bool done = !Empty();
      if (WIFEXITED(status)) {
        EXPECT_EQ(done, WEXITSTATUS(status) == 0) << "what was reported is what happened";
      }
      EXPECT_TRUE(done || std::string(point) != "store.import_heads");
      auto imported = Import("", file_);
      ASSERT_TRUE(imported.ok()) << imported.status();
      EXPECT_EQ(imported->epochs[0].epoch, done ? 4u : 1u);
      for (uint64_t i = 0; i < 3; ++i) {
        ExpectEqual("job", imported->epochs[i].epoch, i + 1);
        if (done) ExpectEqual("job", i + 1, i + 1);
      }
      auto report = VerifyStore(to_, {});
      EXPECT_TRUE(report.ok() && report->ok());
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--import") {
    auto store = incr::Store::Open(argv[2], {});
    if (!store.ok()) return 2;
    incr::ScopedFd fd = incr::OpenFile(argv[3], O_RDONLY).value();
    return incr::ImportEpochs(store->get(), fd.get(), {"", "f", nullptr, nullptr}).ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
