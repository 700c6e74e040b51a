// Many pages at once: the same bytes whichever way they are read, and no wrong one.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/fault_point.h"
#include "base/file.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/uring_reader.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPages = 24'000;  // enough for direct reads, several lanes, a sorted file of the index, parallel look-ups

class BulkReadTest : public ::testing::Test {
 protected:
  BulkReadTest() {
    std::mt19937_64 random(5);
    memory_.resize(kPages * kPageSize);
    for (uint64_t page = 0; page < kPages; ++page) {
      if (page % 7 == 0) continue;  // zeros
      uint8_t* at = memory_.data() + page * kPageSize;
      for (size_t i = 0; i < kPageSize; i += 8) {
        const uint64_t word = page % 3 == 0 ? random() : random() & 0x0f0f00000000ffff;
        std::memcpy(at + i, &word, sizeof word);
      }
    }
    StoreOptions options;
    options.create_if_missing = true;
    options.pack_bytes = 8u << 20;  // several packs
    auto store = Store::Open(directory_ / "store", options);
    EXPECT_TRUE(store.ok()) << store.status();
    auto writer = (*store)->BeginEpoch("job", 0);
    EXPECT_TRUE((*writer)->AddPages(0, {0, kPages}, memory_.data()).ok());
    EXPECT_TRUE((*writer)->Commit({}, "image").ok());
  }
  ~BulkReadTest() override { ArmFaultPoints(""); }

  // Every page once, with the right bytes; the read's status.
  absl::Status ReadAll(bool may_end_early) {
    auto reader = StoreReader::Open(directory_ / "store");
    EXPECT_TRUE(reader.ok()) << reader.status();
    const PageTable table = (*reader)->LoadPageTable("job", 1).value();
    std::vector<PageId> ids;
    for (const PageTableEntry& entry : table) ids.push_back(entry.id);
    std::set<size_t> seen;
    const absl::Status status = (*reader)->ReadPages(ids, [&](size_t i, const uint8_t* page) {
      EXPECT_TRUE(seen.insert(i).second) << "page " << i << " twice";
      EXPECT_EQ(std::memcmp(page, memory_.data() + table[i].page * kPageSize, kPageSize), 0) << "page " << i;
      return absl::OkStatus();
    });
    if (!may_end_early) {
      EXPECT_EQ(seen.size(), kPages);
    }
    return status;
  }

  std::vector<std::string> Packs() {
    std::vector<std::string> packs;
    for (const auto& file : fs::directory_iterator(directory_ / "store/packs")) packs.push_back(file.path());
    std::sort(packs.begin(), packs.end());
    return packs;
  }

  TempDirectory directory_;
  std::vector<uint8_t> memory_;
};

TEST_F(BulkReadTest, EveryWayGivesTheSameBytes) {
  EXPECT_NE(UringReader::Create(), nullptr) << "this machine cannot test the fast way";
  EXPECT_TRUE(OpenFile(Packs()[0], O_RDONLY | O_DIRECT).ok()) << "nor can this file system";
  EXPECT_GE(Packs().size(), 3u);
  for (const char* faults : {"", "store.no_uring=error", "store.no_direct=error"}) {
    ArmFaultPoints(faults);
    const absl::Status status = ReadAll(/*may_end_early=*/false);
    EXPECT_TRUE(status.ok()) << faults << ": " << status;
  }
}

TEST_F(BulkReadTest, APackThatIsCutShortIsNamed) {
  const std::string pack = Packs()[1];
  fs::resize_file(pack, fs::file_size(pack) / 2 / 4096 * 4096 + 100);
  const absl::Status status = ReadAll(/*may_end_early=*/true);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find(pack), absl::string_view::npos) << status;
}

TEST_F(BulkReadTest, AFlippedBitIsFoundAndNamed) {
  const std::string pack = Packs()[1];
  const uint64_t middle = fs::file_size(pack) / 3 / 4096 * 4096 + 777;  // among the bodies, not in a segment's table
  std::fstream file(pack, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(middle);
  const char byte = static_cast<char>(file.get());
  file.seekp(middle);
  file.put(static_cast<char>(byte ^ 0x10));
  file.close();
  const absl::Status status = ReadAll(/*may_end_early=*/true);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find(pack), absl::string_view::npos) << status;
}

TEST_F(BulkReadTest, ASinkThatGivesUpEndsTheRead) {
  auto reader = StoreReader::Open(directory_ / "store");
  ASSERT_TRUE(reader.ok());
  const PageTable table = (*reader)->LoadPageTable("job", 1).value();
  std::vector<PageId> ids;
  for (const PageTableEntry& entry : table) ids.push_back(entry.id);
  for (const int after : {0, 1, 3000, 9000}) {
    int calls = 0;
    const absl::Status status = (*reader)->ReadPages(ids, [&](size_t, const uint8_t*) {
      return ++calls > after ? absl::CancelledError("enough") : absl::OkStatus();
    });
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
    EXPECT_EQ(calls, after + 1);
  }
}

TEST(SortedFileTest, WhatACrashLeftOfTheIndexIsRemovedAtOpen) {
  TempDirectory directory;
  StoreOptions options;
  options.create_if_missing = true;
  ASSERT_TRUE(Store::Open(directory / "store", options).ok());
  const std::string left = directory / "store/db/ingest17.tmp";
  std::ofstream(left) << "half a table file";
  ASSERT_TRUE(fs::exists(left));
  ASSERT_TRUE(Store::Open(directory / "store", options).ok());
  EXPECT_FALSE(fs::exists(left));
}

}  // namespace
}  // namespace incr
