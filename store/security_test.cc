// What others can do to a store, and with it: modes, owners, symbolic links, newer formats.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

class SecurityTest : public ::testing::Test {
 protected:
  absl::Status Open() {
    StoreOptions options;
    options.create_if_missing = true;
    auto store = Store::Open(path_, options);
    INCR_RETURN_IF_ERROR(store.status());
    store_ = *std::move(store);
    return absl::OkStatus();
  }
  void Put(uint64_t count) {
    auto writer = store_->BeginEpoch("job", 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    PageBytes page{};
    for (uint64_t i = 1; i <= count; ++i) {
      std::memcpy(page.data(), &i, sizeof i);
      ASSERT_TRUE((*writer)->AddPages(0, {i, 1}, page.data()).ok());
    }
    const auto record = (*writer)->Commit({}, "image");
    ASSERT_TRUE(record.ok()) << record.status();
  }
  void ExpectClosed() {
    for (const auto& entry : fs::recursive_directory_iterator(path_)) {
      struct stat info;
      ASSERT_EQ(::lstat(entry.path().c_str(), &info), 0);
      EXPECT_EQ(info.st_mode & 07777, S_ISDIR(info.st_mode) ? 0700 : 0600) << entry.path();
    }
    struct stat info;
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0700);
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  std::unique_ptr<Store> store_;
};

TEST_F(SecurityTest, NobodyElseMayReadIt) {
  for (const mode_t mask : {0000, 0022, 0277, 0777}) {
    SCOPED_TRACE(mask);
    if (::geteuid() != 0 && mask > 0077) continue;
    const mode_t before = ::umask(mask);
    ASSERT_TRUE(Open().ok());
    Put(10);
    Put(20'000);  // enough for a table file of its own
    store_.reset();
    ASSERT_TRUE(Open().ok());  // RocksDB makes files anew
    Put(30);
    ExpectClosed();
    store_.reset();
    ::umask(before);
    fs::remove_all(path_);
  }
}

TEST_F(SecurityTest, ADirectoryThatWasOpenIsClosed) {
  ASSERT_EQ(::mkdir(path_.c_str(), 0755), 0);
  ASSERT_TRUE(Open().ok());
  Put(10);
  ExpectClosed();
  store_.reset();
  ASSERT_EQ(::chmod(path_.c_str(), 0777), 0);
  ASSERT_TRUE(Open().ok());
  ExpectClosed();
}

TEST_F(SecurityTest, AnotherUsersStoreIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  for (const bool made : {false, true}) {
    ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
    if (made) {
      ASSERT_TRUE(Open().ok());
      store_.reset();
    }
    ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
    const absl::Status writer = Open();
    EXPECT_EQ(writer.code(), absl::StatusCode::kPermissionDenied) << writer;
    EXPECT_TRUE(absl::StrContains(writer.message(), path_ + " belongs to user 12345")) << writer;
    if (made) {
      EXPECT_EQ(StoreReader::Open(path_).status(), writer);
    } else {
      EXPECT_TRUE(fs::is_empty(path_)) << "nothing is written there";
    }
    fs::remove_all(path_);
  }
}

class SymbolicLinkTest : public SecurityTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(SymbolicLinkTest, IsNotFollowed) {
  ASSERT_TRUE(Open().ok());
  Put(10);
  store_.reset();
  const std::string name = GetParam(), file = path_ + "/" + name, outside = directory_ / "outside";
  fs::rename(file, outside);
  fs::create_symlink(outside, file);
  const absl::Status writer = Open();
  EXPECT_EQ(writer.code(), absl::StatusCode::kFailedPrecondition) << writer;
  EXPECT_TRUE(absl::StrContains(writer.message(), file)) << writer;
  store_.reset();
  // What only writers look at is no concern of a reader.
  if (name == "lock" || name == "commits") return;
  absl::Status reader = StoreReader::Open(path_).status();
  if (reader.ok()) {
    auto opened = StoreReader::Open(path_);
    auto table = (*opened)->LoadPageTable("job", 1);
    ASSERT_TRUE(table.ok()) << table.status();
    const PageId id = (*table)[0].id;
    reader = (*opened)->ReadPages({&id, 1}, [](size_t, const uint8_t*) { return absl::OkStatus(); });
  }
  EXPECT_EQ(reader.code(), absl::StatusCode::kFailedPrecondition) << reader;
  EXPECT_TRUE(absl::StrContains(reader.message(), file)) << reader;
}

TEST_P(SymbolicLinkTest, NorIsWhatItPointsToMadeOrChanged) {
  ASSERT_TRUE(Open().ok());
  Put(10);
  store_.reset();
  const std::string file = path_ + "/" + GetParam(), outside = directory_ / "outside";
  fs::remove_all(file);
  fs::create_symlink(outside, file);
  EXPECT_FALSE(Open().ok());
  EXPECT_FALSE(fs::exists(outside));
  std::ofstream(outside) << "precious";
  EXPECT_FALSE(Open().ok());
  EXPECT_EQ(fs::file_size(outside), 8);
}

INSTANTIATE_TEST_SUITE_P(Files, SymbolicLinkTest,
                         ::testing::Values("FORMAT", "secret", "lock", "commits", "packs", "db",
                                           "db/CURRENT", "db/IDENTITY", "packs/00000001.pack"));

TEST_F(SecurityTest, AFifoInPlaceOfAFileDoesNotMakeUsWait) {
  for (const char* name : {"FORMAT", "secret", "commits"}) {
    ASSERT_TRUE(Open().ok());
    store_.reset();
    const std::string file = path_ + "/" + name;
    fs::remove(file);
    ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
    EXPECT_FALSE(Open().ok()) << name;
    fs::remove_all(path_);
  }
}

TEST_F(SecurityTest, AStoreOfANewerVersionIsRefusedAndLeftAlone) {
  ASSERT_TRUE(Open().ok());
  store_.reset();
  const std::string text = "version 2\nsomething else\n";
  std::ofstream(path_ + "/FORMAT") << text;
  for (const absl::Status& status : {Open(), StoreReader::Open(path_).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "version 2")) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "use a newer incr-ckpt")) << status;
  }
  EXPECT_EQ(fs::file_size(path_ + "/FORMAT"), text.size());
}

}  // namespace
}  // namespace incr
