// Every write of an epoch fails in turn, in every way a disk can: the epoch fails with a message that says what and
// where, or succeeds; the store stays good; the next epoch succeeds. The same for opening and for making a store, and for reads.
#include "store/faulty_disk.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

struct Kind {
  int stride;  // of opening and making a store, which are many calls, every so manyth fails
  const char* name;
  DiskFault fault;
  const char* says;  // what a message about it must have; "": nothing may fail
};

const Kind kKinds[] = {
    {1, "NoSpace", {.error = ENOSPC}, "No space left"},
    {5, "FullFromThereOn", {.error = ENOSPC, .lasting = true, .ignore_syncs = true}, "No space left"},
    {3, "IoError", {.error = EIO}, "Input/output error"},
    {5, "BrokenFromThereOn", {.error = EIO, .lasting = true}, "Input/output error"},
    {3, "TornWrite", {.error = EIO, .bytes = 100}, "Input/output error"},
    {7, "TornByTheFullDisk", {.error = ENOSPC, .bytes = 3000}, "No space left"},
    {7, "ShortWrite", {.bytes = 700}, ""},
    {7, "Interrupted", {.error = EINTR}, ""},
};

class FaultyDiskTest : public ::testing::TestWithParam<Kind> {
 protected:
  absl::Status Open() {
    store_.reset();
    StoreOptions options;
    options.create_if_missing = true;
    options.full_table_every = 5;
    options.pack_bytes = 200'000;  // so that packs are made now and then
    options.workers = 1;
    options.faults = &disk_;
    INCR_ASSIGN_OR_RETURN(store_, Store::Open(path_, options));
    return absl::OkStatus();
  }
  // An epoch: 25 pages of 60 anew.
  absl::Status Put(uint64_t salt) {
    ModelTable& next = next_ = model_;
    INCR_ASSIGN_OR_RETURN(auto writer, store_->BeginEpoch("job", last_));
    for (uint64_t n = 0; n < 25; ++n) {
      const uint64_t page = (salt * 7 + n) % 60, seed = salt * 1000 + n;
      INCR_RETURN_IF_ERROR(writer->AddPages(0, {page, 1}, MakePage(seed).data()));
      next[{0, page}] = seed;
    }
    INCR_ASSIGN_OR_RETURN(const pb::EpochRecord record,
                          writer->Commit({}, std::string(5000, 'i')));
    last_ = record.epoch();
    model_ = next_;
    return absl::OkStatus();
  }
  // The one exception of EpochWriter::Commit: the disk failed in the very last write, and for opening anew too. Then the
  // epoch is there, whole, or not.
  void TakeWhatWasSettledLater() {
    if (!GetParam().fault.lasting || !store_->LatestEpoch("job").ok()) return;
    if (store_->LatestEpoch("job")->epoch() != last_ + 1) return;
    ++last_;
    model_ = next_;
  }
  void ExpectGood(const std::string& when) {
    EXPECT_EQ(Difference(*store_, "job", last_, model_), "") << when;
    EXPECT_EQ(store_->LatestEpoch("job")->epoch(), last_) << when;
  }
  void ExpectClear(const absl::Status& status, const std::string& when) {
    EXPECT_NE(std::string(GetParam().says), "") << "must not fail: " << status << " " << when;
    EXPECT_TRUE(absl::StrContains(status.message(), GetParam().says)) << status << " " << when;
    EXPECT_TRUE(absl::StrContains(status.message(), directory_.path())) << status << " " << when;
    if (GetParam().fault.error == ENOSPC) {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status << " " << when;
    }
  }

  TempDirectory directory_;
  const std::string path_ = directory_ / "store";
  FaultyDisk disk_;
  std::unique_ptr<Store> store_;
  ModelTable model_, next_;
  uint64_t last_ = 0;
};

TEST_P(FaultyDiskTest, EachWriteOfAnEpoch) {
  ASSERT_TRUE(Open().ok());
  ASSERT_TRUE(Put(1).ok());
  int failed = 0, reached = 0;
  uint64_t salt = 2;
  // Epochs differ in their number of calls (a new pack, a full table): until none has been reached for long.
  for (uint64_t at = 1, beyond = 0; beyond < 6; ++at) {
    const std::string when = absl::StrCat("call ", at);
    const uint64_t before = last_;
    disk_.Arm(GetParam().fault, at);
    const absl::Status status = Put(salt++);
    const std::string hit = disk_.hit();
    disk_.Disarm();
    beyond = hit.empty() ? beyond + 1 : 0;
    reached += !hit.empty();
    if (!status.ok()) {
      ++failed;
      ASSERT_NE(hit, "") << status;
      ExpectClear(status, absl::StrCat(when, " on ", hit));
      ASSERT_EQ(last_, before);
      TakeWhatWasSettledLater();
    }
    ExpectGood(absl::StrCat("after ", when, " on ", hit));
    // The model of a failed epoch is not kept: this one must bring it all.
    const absl::Status next = Put(salt++);
    ASSERT_TRUE(next.ok()) << next << " after " << when << " on " << hit;
    ExpectGood(absl::StrCat("next after ", when, " on ", hit));
    if (at % 5 == 0) {
      const absl::Status reopened = Open();
      ASSERT_TRUE(reopened.ok()) << reopened << " after " << when;
      ExpectGood(absl::StrCat("reopened after ", when));
    }
    ASSERT_LT(at, 400);
  }
  EXPECT_GT(reached, 4);
  const bool may_fail = GetParam().says[0] != '\0';
  EXPECT_EQ(failed > 3, may_fail) << failed;
  ASSERT_TRUE(Open().ok());
  for (uint64_t epoch = last_; epoch > 1 && epoch + 3 > last_; --epoch) {
    EXPECT_TRUE(store_->LoadPageTable("job", epoch).ok());
  }
}

TEST_P(FaultyDiskTest, EachWriteOfOpeningAStore) {
  ASSERT_TRUE(Open().ok());
  for (uint64_t salt = 1; salt < 8; ++salt) ASSERT_TRUE(Put(salt).ok());
  int reached = 0;
  for (uint64_t at = 1;; at += GetParam().stride) {
    store_.reset();
    disk_.Arm(GetParam().fault, at);
    const absl::Status status = Open();
    const std::string hit = disk_.hit();
    disk_.Disarm();
    const std::string when = absl::StrCat("call ", at, " on ", hit);
    if (hit.empty()) break;
    ++reached;
    if (!status.ok()) ExpectClear(status, when);
    const absl::Status again = Open();
    ASSERT_TRUE(again.ok()) << again << " after " << when;
    ExpectGood(when);
    ASSERT_TRUE(Put(100 + at).ok()) << when;
    ExpectGood(when);
    ASSERT_LT(at, 400);
  }
  EXPECT_GT(reached, 3);
}

TEST_P(FaultyDiskTest, EachWriteOfMakingAStore) {
  for (uint64_t at = 1;; at += 4 * GetParam().stride + 1) {
    store_.reset();
    std::filesystem::remove_all(path_);
    model_.clear();
    last_ = 0;
    disk_.Arm(GetParam().fault, at);
    const absl::Status status = Open();
    const std::string hit = disk_.hit();
    disk_.Disarm();
    const std::string when = absl::StrCat("call ", at, " on ", hit);
    if (hit.empty()) break;
    if (!status.ok()) ExpectClear(status, when);
    const absl::Status again = Open();
    ASSERT_TRUE(again.ok()) << again << " after " << when;
    ASSERT_TRUE(Put(1).ok()) << when;
    ExpectGood(when);
    ASSERT_LT(at, 400);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, FaultyDiskTest, ::testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(info.param.name); });

class FaultyReadTest : public FaultyDiskTest {};

TEST_P(FaultyReadTest, NeverAWrongPageAndGoodAgainAfterwards) {
  ASSERT_TRUE(Open().ok());
  for (uint64_t salt = 1; salt < 12; ++salt) ASSERT_TRUE(Put(salt).ok());
  int reached = 0, failed = 0;
  for (uint64_t at = 1;; ++at) {
    disk_.Arm(GetParam().fault, at);
    // A reader: opening it reads the whole database.
    const auto reader = StoreReader::Open(path_, &disk_);
    const std::string difference =
        reader.ok() ? Difference(**reader, "job", last_, model_) : reader.status().ToString();
    const std::string hit = disk_.hit();
    disk_.Disarm();
    if (hit.empty()) break;
    ++reached;
    failed += difference != "";
    EXPECT_NE(difference, "wrong bytes") << at << " " << hit;
    EXPECT_FALSE(absl::StrContains(difference, "another page")) << at << " " << hit;
    EXPECT_FALSE(absl::StrContains(difference, "given")) << at << " " << hit;
    ASSERT_LT(at, 2000);
  }
  EXPECT_GT(reached, 10);
  EXPECT_GT(failed, 0);
  ExpectGood("in the end");
  ASSERT_TRUE(Put(50).ok());
  ExpectGood("and one more");
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, FaultyReadTest,
    ::testing::Values(Kind{1, "IoError", {.error = EIO, .on_reads = true}, ""},
                      Kind{1, "FlippedOnce", {.on_reads = true, .flip_bits = true}, ""},
                      Kind{1, "FlippedFromThereOn",
                           {.lasting = true, .on_reads = true, .flip_bits = true}, ""}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace incr
