// A disk that runs full: the epoch fails, nothing of it is committed, the store goes on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

class DiskFullTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(disk_);
    // In a mount namespace of our own: the disk goes when the test does, however it ends. One for all
    // tests, from before RocksDB has threads, which outlive a test and must see the next one's.
    static const bool own_mounts = ::unshare(CLONE_NEWNS) == 0;
    if (!own_mounts ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", disk_.c_str(), "tmpfs", 0, "size=24m") != 0) {
      GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
    }
    mounted_ = true;
  }
  void TearDown() override {
    store_.reset();
    if (mounted_) ::umount2(disk_.c_str(), MNT_DETACH);
  }

  void Reopen(uint64_t pack_bytes = StoreOptions().pack_bytes) {
    StoreOptions options;
    options.create_if_missing = true;
    options.pack_bytes = pack_bytes;
    store_.reset();
    auto store = Store::Open(disk_ + "/store", options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  // `count` pages that do not compress.
  absl::StatusOr<pb::EpochRecord> Put(uint64_t parent, uint64_t count, uint64_t salt,
                                      size_t image_bytes = 10) {
    INCR_ASSIGN_OR_RETURN(auto writer, store_->BeginEpoch("job", parent));
    for (uint64_t page = 0; page < count; ++page) {
      INCR_RETURN_IF_ERROR(
          writer->AddPages(0, {page, 1}, MakePage((salt + page) * 4).data()));
    }
    std::string image;  // That does not compress either.
    while (image.size() < image_bytes) {
      const PageBytes noise = MakePage(4 * (salt + image.size()));
      image.append(noise.begin(), noise.end());
    }
    return writer->Commit({}, image);
  }
  static ModelTable Model(uint64_t count, uint64_t salt) {
    ModelTable model;
    for (uint64_t page = 0; page < count; ++page) model[{0, page}] = (salt + page) * 4;
    return model;
  }

  TempDirectory directory_;
  const std::string disk_ = directory_ / "disk";
  bool mounted_ = false;
  std::unique_ptr<Store> store_;
};

TEST_F(DiskFullTest, AnEpochTooLargeFailsAndTheNextSmallOneSucceeds) {
  Reopen();
  ASSERT_TRUE(Put(0, 500, 1).ok());
  for (int attempt = 0; attempt < 3; ++attempt) {
    auto failed = Put(1, 9000, 10000);
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.status().code(), absl::StatusCode::kResourceExhausted) << failed.status();
    EXPECT_THAT(failed.status().message(), ::testing::HasSubstr(".pack"));
    EXPECT_EQ(store_->ListEpochs("job")->size(), 1);
  }
  auto next = Put(1, 500, 10000);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->stats().pages_stored(), 500) << "the failed epoch's pages must not count";
  EXPECT_EQ(Difference(*store_, "job", 1, Model(500, 1)), "");
  EXPECT_EQ(Difference(*store_, "job", 2, Model(500, 10000)), "");
  Reopen();
  EXPECT_EQ(Difference(*store_, "job", 2, Model(500, 10000)), "");
}

TEST_F(DiskFullTest, AFullDiskUnderTheDatabaseFailsTheEpochOnly) {
  Reopen();
  ASSERT_TRUE(Put(0, 100, 1).ok());
  // Room for the pages, not for the image and what RocksDB makes of it.
  for (int attempt = 0; attempt < 3; ++attempt) {
    auto failed = Put(1, 100, 5000, 12u << 20);
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(store_->ListEpochs("job")->size(), 1);
  }
  auto next = Put(1, 100, 7000);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->epoch(), 2);
  EXPECT_EQ(Difference(*store_, "job", 1, Model(100, 1)), "");
  EXPECT_EQ(Difference(*store_, "job", 2, Model(100, 7000)), "");
  Reopen();
  EXPECT_EQ(Difference(*store_, "job", 2, Model(100, 7000)), "");
}

TEST_F(DiskFullTest, NotAByteFreeAndThenRoomAgain) {
  Reopen();
  ASSERT_TRUE(Put(0, 100, 1).ok());
  const std::string filler = disk_ + "/filler";
  {
    std::ofstream out(filler, std::ios::binary);
    const std::string block(4096, 'f');
    while (out.write(block.data(), block.size()).flush()) {
    }
  }
  for (int attempt = 0; attempt < 5; ++attempt) {
    EXPECT_FALSE(Put(1, 50, 3000).ok());
    EXPECT_FALSE(Put(1, 0, 0, 1u << 20).ok());
  }
  EXPECT_EQ(Difference(*store_, "job", 1, Model(100, 1)), "") << "reading goes on";
  std::filesystem::remove(filler);
  auto next = Put(1, 100, 3000);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(Difference(*store_, "job", 2, Model(100, 3000)), "");
}

TEST_F(DiskFullTest, GcFreesADiskThatEpochsHaveFilled) {
  for (const uint64_t pack_bytes : {uint64_t{1} << 20, uint64_t{256} << 20}) {
    SCOPED_TRACE(pack_bytes);
    Reopen(pack_bytes);
    uint64_t head = store_->ListEpochs("job").ok() ? store_->ListEpochs("job")->back().epoch() : 0;
    uint64_t epochs = 0;
    for (;; ++epochs) {
      auto put = Put(head, 300, 1'000 * (head + 1));
      if (!put.ok()) {
        ASSERT_EQ(put.status().code(), absl::StatusCode::kResourceExhausted) << put.status();
        break;
      }
      ++head;
    }
    ASSERT_GT(epochs, 5);
    GcOptions options;
    options.policy.keep_last = 1;
    auto collected = store_->CollectGarbage(options);
    ASSERT_TRUE(collected.ok()) << collected.status();
    EXPECT_LT(collected->bytes_after, collected->bytes_before / 2);
    EXPECT_EQ(Difference(*store_, "job", head, Model(300, 1'000 * head)), "");
    // There is room again, also for pages that had been there before.
    for (uint64_t again = 1; again <= epochs - 2; ++again, ++head) {
      auto put = Put(head, 300, 1'000 * again);
      ASSERT_TRUE(put.ok()) << put.status();
      ASSERT_EQ(Difference(*store_, "job", head + 1, Model(300, 1'000 * again)), "");
    }
    Reopen(pack_bytes);
    EXPECT_EQ(Difference(*store_, "job", head, Model(300, 1'000 * (epochs - 2))), "");
    auto rest = store_->CollectGarbage(options);
    ASSERT_TRUE(rest.ok()) << rest.status();
    EXPECT_EQ(Difference(*store_, "job", head, Model(300, 1'000 * (epochs - 2))), "");
  }
}

TEST_F(DiskFullTest, GcWithoutAnyRoomSaysSoAndChangesNothing) {
  Reopen();
  ASSERT_TRUE(Put(0, 100, 1).ok());
  ASSERT_TRUE(Put(1, 100, 500).ok());
  const std::string filler = disk_ + "/filler";
  {
    std::ofstream out(filler, std::ios::binary);
    const std::string block(4096, 'f');
    while (out.write(block.data(), block.size()).flush()) {
    }
  }
  GcOptions options;
  options.policy.keep_last = 1;
  auto collected = store_->CollectGarbage(options);
  EXPECT_EQ(collected.status().code(), absl::StatusCode::kResourceExhausted) << collected.status();
  EXPECT_THAT(collected.status().message(), ::testing::HasSubstr("free some space"));
  EXPECT_EQ(Difference(*store_, "job", 1, Model(100, 1)), "");
  std::filesystem::remove(filler);
  ASSERT_TRUE(store_->CollectGarbage(options).ok());
  EXPECT_EQ(store_->ListEpochs("job")->size(), 1);
  EXPECT_EQ(Difference(*store_, "job", 2, Model(100, 500)), "");
}

}  // namespace
}  // namespace incr
