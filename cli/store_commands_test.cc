// verify, repair, export and import of the shipped binary: exit statuses, what is printed, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "proto/control.pb.h"
#include "proto/image.pb.h"
#include "store/kv_db.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

struct Result {
  int status = -1;
  std::string out, err;
};

class StoreCommandsTest : public ::testing::Test {
 protected:
  StoreCommandsTest() {
    StoreOptions options;
    options.create_if_missing = true;
    auto store = Store::Open(store_, options);
    EXPECT_TRUE(store.ok()) << store.status();
    pb::Image image;
    pb::Process* process = image.add_processes();
    process->set_space(1);
    pb::Mapping* heap = process->add_mappings();
    heap->set_start(0x10000 * 4096ull);
    heap->set_end(0x10040 * 4096ull);
    heap->set_prot(3);
    heap->set_kind(pb::Mapping::ANONYMOUS);
    heap->set_name("[heap]");
    for (uint64_t epoch = 1; epoch <= 3; ++epoch) {
      auto writer = (*store)->BeginEpoch("web", epoch - 1);
      EXPECT_TRUE(writer.ok());
      for (uint64_t page = 0; page < (epoch == 1 ? 64 : 1); ++page) {
        const PageBytes bytes = MakePage(4 * (epoch * 1000 + page));  // Does not compress.
        EXPECT_TRUE((*writer)->AddPages(1, {0x10000 + page, 1}, bytes.data()).ok());
      }
      EXPECT_TRUE((*writer)->Commit({}, image.SerializeAsString()).ok());
    }
  }

  Result Run(const std::string& arguments, const std::string& store = "") {
    const std::string out = directory_ / "out", err = directory_ / "err";
    const std::string command = absl::StrCat("cli/incr-ckpt --store ", store.empty() ? store_ : store, " ",
                                             arguments, " >", out, " 2>", err);
    const int status = std::system(command.c_str());
    return {WEXITSTATUS(status), ReadWholeFile(out).value(), ReadWholeFile(err).value()};
  }

  template <typename Reply>
  Reply Json(const std::string& arguments, int expected, const std::string& store = "") {
    const Result result = Run(arguments + " --json", store);
    EXPECT_EQ(result.status, expected) << result.err;
    Reply reply;
    EXPECT_TRUE(FromJson(result.out, &reply).ok()) << result.out;
    return reply;
  }

  // Page 5 of epoch 1, which 2 and 3 have as well: its first byte in the pack, by way of its own content.
  void DamagePageFive() {
    const std::string pack = store_ + "/packs/00000001.pack";
    std::string bytes = ReadWholeFile(pack).value();
    const PageBytes page = MakePage(4 * 1005);
    const size_t at = bytes.find(std::string(page.begin(), page.begin() + 64));
    ASSERT_NE(at, std::string::npos);
    bytes[at + 9] ^= 4;
    ASSERT_TRUE(WriteFileDurably(pack, bytes, 0600).ok());
  }

  TempDirectory directory_;
  const std::string store_ = directory_ / "store", other_ = directory_ / "other", file_ = directory_ / "x.incr";
};

TEST_F(StoreCommandsTest, VerifyNamesPackEpochsAndAddresses) {
  EXPECT_EQ(Run("verify").status, kExitOk);
  EXPECT_THAT(Run("verify").out, HasSubstr("everything is whole"));
  DamagePageFive();
  const auto reply = Json<pb::VerifyReply>("verify", kExitFailed);
  EXPECT_FALSE(reply.ok());
  ASSERT_EQ(reply.damage_size(), 1);
  EXPECT_EQ(reply.damage(0).object(), "packs/00000001.pack");
  EXPECT_GT(reply.damage(0).offset(), 4096);
  ASSERT_EQ(reply.damaged_epochs_size(), 3);
  const pb::VerifyEpoch& epoch = reply.damaged_epochs(2);
  EXPECT_EQ(epoch.job(), "web");
  EXPECT_EQ(epoch.epoch(), 3u);
  EXPECT_EQ(epoch.lost_pages(), 1);
  ASSERT_EQ(epoch.ranges_size(), 1);
  EXPECT_EQ(epoch.ranges(0).start(), "0x10005000");
  EXPECT_EQ(epoch.ranges(0).end(), "0x10006000");
  EXPECT_EQ(epoch.ranges(0).mapping(), "[heap]");
  const Result text = Run("verify --epoch latest");
  EXPECT_EQ(text.status, kExitFailed);
  EXPECT_THAT(text.out, HasSubstr("0x10005000-0x10006000 1 pages rw-p [heap]"));
  EXPECT_EQ(Run("verify --epoch 9").status, kExitNotFound);
  EXPECT_EQ(Run("verify --job nobody").status, kExitNotFound);
  EXPECT_EQ(Run("verify", other_).status, kExitNotFound);
}

TEST_F(StoreCommandsTest, RepairSaysWhatItDropsAndKeepsTheOld) {
  EXPECT_THAT(Run("repair").out, HasSubstr("nothing is damaged"));
  DamagePageFive();
  EXPECT_EQ(Json<pb::RepairReply>("repair --dry-run", kExitOk).dropped_size(), 3);
  EXPECT_EQ(Run("verify").status, kExitFailed) << "a dry run mends nothing";
  const auto reply = Json<pb::RepairReply>("repair", kExitOk);
  EXPECT_TRUE(reply.damaged());
  EXPECT_EQ(reply.dropped_size(), 3);
  EXPECT_EQ(reply.dropped(0).job(), "web");
  EXPECT_THAT(reply.dropped(0).why(), HasSubstr("1 of its 64 pages are lost"));
  EXPECT_EQ(reply.set_aside(), store_ + "/before-repair-1");
  EXPECT_TRUE(fs::exists(reply.set_aside() + "/packs/00000001.pack"));
  EXPECT_TRUE(fs::exists(reply.set_aside() + "/db/CURRENT"));
  EXPECT_EQ(Run("verify").status, kExitOk);
  EXPECT_EQ(Run("list").status, kExitOk);
}

TEST_F(StoreCommandsTest, OneEpochIsVerifiedThoughARecordIsDamaged) {
  {
    auto db = KvDb::Open(store_ + "/db", KvDb::Mode::kReadWrite);
    ASSERT_TRUE(db.ok()) << db.status();
    const std::string key("web\0\0\0\0\0\0\0\0\2", 12);
    std::string record = (*db)->Get(KvTable::kEpochs, key).value();
    record[20] ^= 1;
    KvBatch batch;
    batch.Add(KvTable::kEpochs, key, record);
    ASSERT_TRUE((*db)->Write(batch, true).ok());
  }
  EXPECT_EQ(Json<pb::VerifyReply>("verify --epoch 1", kExitOk).epoch(), 1u);
  for (const char* epoch : {"2", "3", "latest"}) {
    SCOPED_TRACE(epoch);
    const auto reply = Json<pb::VerifyReply>(absl::StrCat("verify --epoch ", epoch), kExitFailed);
    EXPECT_EQ(reply.epoch(), epoch[0] == '2' ? 2u : 3u);
    EXPECT_EQ(reply.epochs(), 1u) << "not the whole job";
    ASSERT_EQ(reply.damaged_epochs_size(), 1);
    EXPECT_THAT(reply.damaged_epochs(0).problems(0), HasSubstr("epoch 2 of job web: epoch record damaged"));
  }
  EXPECT_EQ(Run("verify --epoch 9").status, kExitNotFound);
}

TEST_F(StoreCommandsTest, RepairWarnsOfWhatItCannotKnow) {
  std::string log;
  for (const auto& file : fs::directory_iterator(store_ + "/db")) {
    if (file.path().extension() == ".log" && file.file_size() > 0) log = file.path();
  }
  std::string bytes = ReadWholeFile(log).value();
  bytes[bytes.size() - 20] ^= 1;
  ASSERT_TRUE(WriteFileDurably(log, bytes, 0600).ok());
  ASSERT_TRUE(WriteFileDurably(store_ + "/commits", "nothing", 0600).ok());
  EXPECT_THAT(Run("verify").out, HasSubstr("its log is damaged"));
  EXPECT_THAT(Run("repair --dry-run").err, HasSubstr("incr-ckpt: warning: epochs that were acknowledged may be lost"));
  const auto reply = Json<pb::RepairReply>("repair", kExitOk);
  SCOPED_TRACE(ToJson(reply));
  ASSERT_EQ(reply.warnings_size(), 1);
  EXPECT_THAT(reply.warnings(0), HasSubstr("The last that could be saved: 2 of job web"));
  EXPECT_EQ(reply.jobs_in_doubt(), 1u);
  EXPECT_EQ(Run("verify").status, kExitOk);
}

TEST_F(StoreCommandsTest, RepairIsRefusedWhileSomebodyWrites) {
  auto writer = Store::Open(store_, {});
  ASSERT_TRUE(writer.ok());
  const Result result = Run("repair");
  EXPECT_EQ(result.status, kExitRefused);
  EXPECT_THAT(result.err, HasSubstr("incr-ckpt stop --all"));
  EXPECT_EQ(Run("verify").status, kExitOk);
  // Nor is there a daemon to import for us.
  ASSERT_EQ(Run("export --epoch 1 -o " + file_).status, kExitOk);
  EXPECT_EQ(Run("import " + file_).status, kExitRefused);
}

TEST_F(StoreCommandsTest, ExportedEpochsAreImported) {
  const auto exported = Json<pb::ExportReply>("export --epoch 1 --epoch latest -o " + file_, kExitOk);
  EXPECT_EQ(exported.epochs_size(), 2);
  EXPECT_EQ(exported.bytes(), fs::file_size(file_));
  struct stat info;
  ASSERT_EQ(::stat(file_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u) << "it holds the memory of a process";
  const auto imported = Json<pb::ImportReply>("import " + file_ + " --job copy", kExitOk, other_);
  EXPECT_EQ(imported.job(), "copy");
  EXPECT_EQ(imported.from_job(), "web");
  ASSERT_EQ(imported.epochs_size(), 2);
  EXPECT_EQ(imported.epochs(1).epoch(), 2u);
  EXPECT_EQ(imported.epochs(1).from_epoch(), 3u);
  EXPECT_EQ(imported.epochs(1).parent(), 1u);
  EXPECT_EQ(Run("verify", other_).status, kExitOk);
  const Result piped =
      Run(absl::StrCat("export --epoch 2 -o - | cli/incr-ckpt --store ", other_, " import -"));
  EXPECT_EQ(piped.status, kExitOk) << piped.err;
  EXPECT_THAT(piped.out, HasSubstr("epoch 2 of job web is now epoch 1 of job web"));
}

TEST_F(StoreCommandsTest, WhatCannotBeExportedOrImportedIsRefusedAndLeavesNothing) {
  EXPECT_EQ(Run("export --epoch 9 -o " + file_).status, kExitNotFound);
  EXPECT_EQ(Run("export -o " + file_).status, kExitUsage);
  EXPECT_EQ(Run("export --epoch 1 -o /no/such/directory/x").status, kExitNotFound);
  EXPECT_FALSE(fs::exists(file_));
  DamagePageFive();
  EXPECT_EQ(Run("export --epoch 1 -o " + file_).status, kExitFailed);
  EXPECT_FALSE(fs::exists(file_)) << "a file appears whole or not at all";
  for (const auto& left : fs::directory_iterator(directory_.path())) {
    EXPECT_EQ(left.path().string().find(".tmp"), std::string::npos) << left;
  }
  EXPECT_EQ(Run("import " + file_, other_).status, kExitNotFound);
  EXPECT_FALSE(fs::exists(other_));
  ASSERT_TRUE(WriteFileDurably(file_, "no export file at all", 0600).ok());
  const Result result = Run("import " + file_, other_);
  EXPECT_EQ(result.status, kExitRefused);
  EXPECT_THAT(result.err, HasSubstr("not an export file"));
  EXPECT_EQ(Run("import " + directory_.path(), other_).status, kExitRefused);
}

}  // namespace
}  // namespace incr
