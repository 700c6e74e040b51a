// Any byte of any file flipped, any file cut or gone: verify names it, no wrong page is ever read, repair saves
// what can be saved and nothing that was good gets worse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "base/fault_point.h"
#include "base/file.h"
#include "store/catalog.h"
#include "store/kv_db.h"
#include "store/kv_salvage.h"
#include "store/page_index.h"
#include "store/repair.h"
#include "store/self_child.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/verify.h"

namespace incr {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

using Name = std::pair<std::string, uint64_t>;
using Models = std::map<Name, ModelTable>;

// Of several blocks of the database.
std::string ImageOf(const Name& name) {
  std::string image;
  for (uint64_t seed = 1; seed <= 1 + name.second % 3; ++seed) {
    const PageBytes page = MakePage(4 * seed);
    image.append(page.begin(), page.end());
  }
  return image + name.first + std::to_string(name.second);
}

// Every file below `root` but the lock, with its bytes.
std::map<std::string, std::string> Contents(const std::string& root) {
  std::map<std::string, std::string> files;
  for (const auto& file : fs::recursive_directory_iterator(root)) {
    const std::string name = fs::relative(file.path(), root);
    if (file.is_regular_file() && name != "lock") files[name] = ReadWholeFile(file.path()).value();
  }
  return files;
}

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Two jobs, nine epochs, several packs; some of it in table files, the last in the log.
class RepairTest : public ::testing::Test {
 protected:
  RepairTest() {
    std::mt19937_64 random(77);
    for (int session = 0; session < 3; ++session) {
      StoreOptions options;
      options.create_if_missing = true;
      options.pack_bytes = 300'000;
      options.full_table_every = 3;
      auto store = Store::Open(good_, options);
      EXPECT_TRUE(store.ok()) << store.status();
      for (const char* job : {"alpha", "beta", "alpha"}) {
        const uint64_t parent = last_[job];
        ModelTable model = parent == 0 ? ModelTable() : models_[{job, parent}];
        auto writer = (*store)->BeginEpoch(job, parent);
        EXPECT_TRUE(writer.ok()) << writer.status();
        for (int i = parent == 0 ? 120 : 25; i > 0; --i) {
          const uint64_t page = random() % 150, seed = random() % 900;
          model[{1, page}] = seed;
          EXPECT_TRUE((*writer)->AddPages(1, {page, 1}, MakePage(seed).data()).ok());
        }
        const Name name{job, (*writer)->epoch()};
        EXPECT_TRUE((*writer)->Commit({}, ImageOf(name)).ok());
        models_[name] = model;
        last_[job] = name.second;
      }
    }
    fs::copy(good_, path_, fs::copy_options::recursive);
  }

  void SpoilImageOfAlpha(char epoch) {
    auto db = KvDb::Open(path_ + "/db", KvDb::Mode::kReadWrite);
    INCR_CHECK(db.ok());
    const std::string key = std::string("alpha") + std::string(8, '\0') + epoch + std::string(4, '\0');
    INCR_CHECK((*db)->Get(KvTable::kImages, key).ok());
    KvBatch batch;
    batch.Add(KvTable::kImages, key, "no image");
    INCR_CHECK((*db)->Write(batch, true).ok());
  }

  void Reset() {
    fs::remove_all(path_);
    fs::copy(good_, path_, fs::copy_options::recursive);
  }

  std::vector<std::string> TableFiles() const {
    std::vector<std::string> files;
    for (const auto& file : fs::directory_iterator(path_ + "/db")) {
      if (file.path().extension() == ".sst") files.push_back(fs::relative(file.path(), path_));
    }
    EXPECT_FALSE(files.empty());
    return files;
  }

  // The epochs that read back as they were written. Wrong bytes fail the test.
  std::set<Name> Whole() {
    std::set<Name> whole;
    auto reader = StoreReader::Open(path_);
    if (!reader.ok()) return whole;
    for (const auto& [name, model] : models_) {
      const std::string difference = Difference(**reader, name.first, name.second, model);
      EXPECT_THAT(difference, ::testing::Not(HasSubstr("wrong bytes")));
      EXPECT_THAT(difference, ::testing::Not(HasSubstr("another page")));
      const auto image = (*reader)->ReadImage(name.first, name.second);
      EXPECT_EQ(image.value_or(ImageOf(name)), ImageOf(name));
      if (difference.empty() && image.ok()) whole.insert(name);
    }
    return whole;
  }

  absl::StatusOr<VerifyReport> Verify() { return VerifyStore(path_, {}); }

  static std::string Text(const VerifyReport& report) {
    std::string text;
    for (const Damage& damage : report.damage) {
      text += damage.object + " " + std::to_string(damage.offset) + ": " + damage.what + "\n";
    }
    for (const DamagedEpoch& epoch : report.damaged_epochs) {
      text += epoch.job + " " + std::to_string(epoch.epoch) + " lost " + std::to_string(epoch.lost_pages) + "\n";
    }
    return text;
  }

  static std::string Text(const RepairResult& result) {
    std::string text = "database " + result.database + "\n";
    for (const std::string& sentence : result.done) text += sentence + "\n";
    for (const DroppedEpoch& epoch : result.dropped) {
      text += "dropped " + epoch.job + " " + std::to_string(epoch.epoch) + ": " + epoch.why + "\n";
    }
    return text;
  }

  // After a repair: whole, with `at_least`, and every epoch of before is there or was said to be dropped.
  void ExpectRepaired(const std::set<Name>& at_least) {
    auto result = RepairStore(path_, {});
    ASSERT_TRUE(result.ok()) << result.status();
    SCOPED_TRACE(Text(*result));
    auto report = Verify();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->ok()) << Text(*report);
    const std::set<Name> whole = Whole();
    for (const Name& name : at_least) {
      EXPECT_EQ(whole.count(name), 1u) << name.first << " " << name.second << " was whole before the repair";
    }
    EXPECT_EQ(report->epochs, whole.size()) << "an epoch was kept that is none";
    EXPECT_FALSE(fs::exists(path_ + "/repair.tmp"));
    if (result->database == "whole" && !result->set_aside.empty()) {
      EXPECT_EQ(result->dropped.size() + whole.size(), models_.size()) << "an epoch went without a word";
    }
    auto again = RepairStore(path_, {});
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_FALSE(again->damaged);
    auto store = Store::Open(path_, {});
    EXPECT_TRUE(store.ok()) << store.status();
  }

  TempDirectory directory_;
  const std::string good_ = directory_ / "good";
  const std::string path_ = directory_ / "store";
  Models models_;
  std::map<std::string, uint64_t> last_;
};

TEST_F(RepairTest, AGoodStoreIsVerifiedAndLeftByteForByte) {
  const auto before = Contents(path_);
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->ok()) << Text(*report);
  EXPECT_EQ(report->epochs, models_.size());
  EXPECT_EQ(report->jobs, 2u);
  EXPECT_GT(report->packs, 1u);
  EXPECT_GT(report->pages, 100u);
  for (const bool dry_run : {true, false}) {
    RepairOptions options;
    options.dry_run = dry_run;
    auto result = RepairStore(path_, options);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_FALSE(result->damaged);
  }
  EXPECT_TRUE(Contents(path_) == before);
}

TEST_F(RepairTest, AnyDamageIsNamedAndRepairedAsFarAsItCanBe) {
  const char* setting = std::getenv("INCR_CKPT_DAMAGE_TRIALS");
  const int trials = setting != nullptr ? std::atoi(setting) : 60;
  const char* seed = std::getenv("INCR_CKPT_DAMAGE_SEED");
  std::mt19937_64 random(seed != nullptr ? std::atoi(seed) : 4711);
  std::vector<std::string> files;
  for (const auto& [name, bytes] : Contents(good_)) {
    // RocksDB's own notes: nothing of the store is in them.
    const bool notes = name.find("OPTIONS") != std::string::npos || name == "db/IDENTITY" || name == "db/LOCK";
    if (!notes && !bytes.empty()) files.push_back(name);
  }
  int unharmed = 0, refused = 0;
  for (int trial = 0; trial < trials; ++trial) {
    Reset();
    const std::string file = files[random() % files.size()];
    std::string bytes = ReadWholeFile(path_ + "/" + file).value();
    const size_t at = random() % bytes.size();
    const int kind = random() % 4;
    if (kind == 0) {
      bytes.resize(at);
    } else if (kind == 1) {
      std::fill_n(bytes.begin() + at, std::min<size_t>(bytes.size() - at, 1 + random() % 5000), '\0');
    } else {
      bytes[at] ^= 1 << random() % 8;
    }
    SCOPED_TRACE("trial " + std::to_string(trial) + ": " + file + " at " + std::to_string(at) + " kind " +
                 std::to_string(kind));
    Write(path_ + "/" + file, bytes);
    const std::set<Name> whole = Whole();
    const auto damaged = Contents(path_);
    auto report = Verify();
    if (report.ok() && report->ok()) {
      // Only where it does no harm: an old log, a byte that LZ4 reads in two ways.
      EXPECT_EQ(whole.size(), models_.size()) << "damage that verify does not see";
      ++unharmed;
      auto result = RepairStore(path_, {});
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_FALSE(result->damaged);
      EXPECT_TRUE(Contents(path_) == damaged);
    } else {
      if (report.ok()) {
        for (const auto& [name, model] : models_) {
          if (whole.count(name) != 0) continue;
          const bool named = std::any_of(report->damaged_epochs.begin(), report->damaged_epochs.end(),
                                         [&](const DamagedEpoch& e) { return Name(e.job, e.epoch) == name; });
          const bool database = std::any_of(report->damage.begin(), report->damage.end(),
                                            [](const Damage& d) { return d.object == "db"; });
          EXPECT_TRUE(named || database) << Text(*report);
        }
      }
      auto tried = RepairStore(path_, {});
      if (!tried.ok()) {
        // A secret cut short is gone; a FORMAT may read like a newer version's.
        EXPECT_TRUE(file == "secret" || file == "FORMAT") << tried.status();
        EXPECT_TRUE(Contents(path_) == damaged);
        ++refused;
        continue;
      }
      SCOPED_TRACE(Text(*tried));
      ExpectRepaired(whole);
    }
    if (HasFailure()) return;
  }
  SCOPED_TRACE("all trials");
  std::printf("%d trials: %d without harm, %d that nothing can mend\n", trials, unharmed, refused);
  EXPECT_LT(unharmed, trials / 2);
  EXPECT_LT(refused, trials / 4);
}

TEST_F(RepairTest, ALostPackCostsTheEpochsThatNeedItAndNoOther) {
  fs::remove(path_ + "/packs/00000002.pack");
  const std::set<Name> whole = Whole();
  EXPECT_LT(whole.size(), models_.size());
  EXPECT_GT(whole.size(), 0u);
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->damaged_epochs.size() + whole.size(), models_.size());
  for (const DamagedEpoch& epoch : report->damaged_epochs) {
    EXPECT_GT(epoch.lost_pages, 0u);
    uint64_t listed = 0;
    for (const LostRun& run : epoch.lost) {
      EXPECT_EQ(run.space, 1u);
      EXPECT_LT(run.pages.end(), 151u);
      listed += run.pages.count;
    }
    EXPECT_EQ(listed, epoch.lost_pages);
  }
  ExpectRepaired(whole);
  EXPECT_EQ(Whole(), whole);
}

class RepairAfterGcTest : public RepairTest {
 protected:
  // Every second epoch goes, all packs are written anew with zstd.
  absl::Status Collect() {
    INCR_ASSIGN_OR_RETURN(auto store, Store::Open(path_, {}));
    GcOptions gc;
    gc.policy.keep = {2, 4, 6};
    gc.recompress_zstd = true;
    INCR_ASSIGN_OR_RETURN(const GcResult result, store->CollectGarbage(gc));
    EXPECT_GT(result.packs_rewritten, 0u);
    return absl::OkStatus();
  }

  // Forgets the models of epochs that are not listed.
  void KeepListedModels() {
    auto reader = StoreReader::Open(path_);
    ASSERT_TRUE(reader.ok()) << reader.status();
    for (auto it = models_.begin(); it != models_.end();) {
      it = (*reader)->GetEpoch(it->first.first, it->first.second).ok() ? std::next(it) : models_.erase(it);
    }
  }

  // How many bodies there are of each encoding, and the place of one that is zstd.
  std::map<PageEncoding, int> Encodings(PageLocation* zstd) {
    std::map<PageEncoding, int> counts;
    auto db = KvDb::Open(path_ + "/db", KvDb::Mode::kReadOnly);
    EXPECT_TRUE(db.ok()) << db.status();
    EXPECT_TRUE(ForEachPage(**db, [&](const IndexEntry& entry) {
                  ++counts[entry.location.encoding];
                  if (entry.location.encoding == PageEncoding::kZstd) *zstd = entry.location;
                  return absl::OkStatus();
                }).ok());
    return counts;
  }

  int MovedManifests() {
    int moved = 0;
    auto db = KvDb::Open(path_ + "/db", KvDb::Mode::kReadOnly);
    EXPECT_TRUE(db.ok()) << db.status();
    EXPECT_TRUE((*db)->Scan(KvTable::kEpochs, "", [&](absl::string_view, absl::string_view value) {
                  moved += DecodeEnvelope(value)->first_chunk != 0;
                  return absl::OkStatus();
                }).ok());
    return moved;
  }

  std::string PackPath(uint32_t pack) const { return path_ + "/packs/" + PackName(pack); }
};

TEST_F(RepairAfterGcTest, WhatGcHasMovedAndRecompressedIsWholeAndLeftByteForByte) {
  const absl::Status collected = Collect();
  ASSERT_TRUE(collected.ok()) << collected;
  KeepListedModels();
  PageLocation zstd;
  ASSERT_GT(Encodings(&zstd)[PageEncoding::kZstd], 0);
  ASSERT_GT(MovedManifests(), 0);
  // A table file that the database does not know, as a killed compaction leaves it: no sign that the
  // records which gc has removed were lost.
  for (const auto& file : fs::directory_iterator(path_ + "/db")) {
    if (file.path().extension() != ".sst") continue;
    fs::copy_file(file.path(), path_ + "/db/900001.sst");
    break;
  }
  const auto before = Contents(path_);
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->ok()) << Text(*report);
  EXPECT_EQ(report->epochs, models_.size());
  EXPECT_EQ(Whole().size(), models_.size());
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->damaged) << Text(*result);
  EXPECT_EQ(Contents(path_), before);
}

TEST_F(RepairAfterGcTest, ADamagedZstdBodyIsNamedAndTheRestOfItsPackSaved) {
  ASSERT_TRUE(Collect().ok());
  KeepListedModels();
  PageLocation zstd;
  ASSERT_GT(Encodings(&zstd)[PageEncoding::kZstd], 0);
  std::string bytes = ReadWholeFile(PackPath(zstd.pack)).value();
  bytes[zstd.offset + zstd.length / 2] ^= 0x20;
  Write(PackPath(zstd.pack), bytes);
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->damage_count, 1u) << Text(*report);
  EXPECT_EQ(report->damage[0].object, "packs/" + PackName(zstd.pack));
  EXPECT_EQ(report->damage[0].offset, zstd.offset);
  const std::set<Name> whole = Whole();
  ExpectRepaired(whole);
  EXPECT_EQ(Whole(), whole);
  EXPECT_GT(Encodings(&zstd)[PageEncoding::kZstd], 0) << "copied as they are";
  EXPECT_EQ(MovedManifests(), 0);
}

TEST_F(RepairAfterGcTest, AGcThatWasCutShortLeavesNoDamage) {
  for (const char* point :
       {"gc_after_manifest", "gc_before_unpublish", "gc_after_unpublish", "gc_after_orphans", "gc_after_mark",
        "gc_in_sweep", "gc_after_sweep", "gc_before_delete", "gc_after_forget", "gc_after_unlink", "gc_after_copy",
        "gc_after_move"}) {
    SCOPED_TRACE(point);
    Reset();
    ArmFaultPoints(std::string("store.") + point + "=error");
    EXPECT_FALSE(Collect().ok());
    ArmFaultPoints("");
    auto report = Verify();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->ok()) << Text(*report);
    const auto before = Contents(path_);
    EXPECT_FALSE(RepairStore(path_, {})->damaged);
    EXPECT_EQ(Contents(path_), before);
  }
}

// On a full disk gc deletes packs whose entries and record are still in the database.
TEST_F(RepairAfterGcTest, APackThatNoEpochNeedsMayBeGone) {
  fs::remove_all(path_);
  models_.clear();
  {
    StoreOptions options;
    options.create_if_missing = true;
    options.pack_bytes = 150'000;
    auto store = Store::Open(path_, options);
    ASSERT_TRUE(store.ok()) << store.status();
    for (uint64_t epoch = 1; epoch <= 3; ++epoch) {  // Nothing in common.
      auto writer = (*store)->BeginEpoch("job", epoch - 1);
      ASSERT_TRUE(writer.ok()) << writer.status();
      ModelTable model;
      for (uint64_t page = 0; page < 200; ++page) {
        model[{1, page}] = 1000 * epoch + page;
        ASSERT_TRUE((*writer)->AddPages(1, {page, 1}, MakePage(1000 * epoch + page).data()).ok());
      }
      ASSERT_TRUE((*writer)->Commit({}, ImageOf({"job", epoch})).ok());
      models_[{"job", epoch}] = model;
    }
    ArmFaultPoints("store.gc_after_unpublish=error");
    GcOptions gc;
    gc.policy.keep_last = 1;
    EXPECT_FALSE((*store)->CollectGarbage(gc).ok());
    ArmFaultPoints("");
  }
  KeepListedModels();
  ASSERT_EQ(models_.size(), 1u);

  int needed = 0, needless = 0;
  std::vector<std::string> packs;
  for (const auto& file : fs::directory_iterator(path_ + "/packs")) packs.push_back(file.path());
  for (const std::string& pack : packs) {
    SCOPED_TRACE(pack);
    fs::rename(pack, path_ + "/away");
    const bool whole = Whole().size() == models_.size();
    auto report = Verify();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->ok(), whole) << Text(*report);
    if (!whole) {
      ASSERT_EQ(report->damage_count, 1u) << Text(*report);
      EXPECT_EQ(report->damage[0].object, "packs/" + fs::path(pack).filename().string());
      EXPECT_THAT(report->damage[0].what, HasSubstr("no such file"));
    }
    ++(whole ? needless : needed);
    fs::rename(path_ + "/away", pack);
  }
  EXPECT_GT(needed, 0);
  EXPECT_GT(needless, 0);
}

TEST_F(RepairAfterGcTest, ADamagedGenerationBeginsAnewWhenNobodyReads) {
  ASSERT_TRUE(Collect().ok());
  KeepListedModels();
  auto reader = StoreReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  Write(path_ + "/generation", "short");
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->damage_count, 1u) << Text(*report);
  EXPECT_EQ(report->damage[0].object, "generation");
  EXPECT_TRUE(absl::IsFailedPrecondition(RepairStore(path_, {}).status()));
  reader->reset();
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->damaged && result->set_aside.empty());
  EXPECT_TRUE(Verify()->ok());
  EXPECT_EQ(Whole().size(), models_.size());
}

// Neither the log nor the count of commits can be believed: it is said that there may have been more.
TEST_F(RepairTest, DamageOfLogAndCommitCountIsNotBelievedSilently) {
  std::string log;
  for (const auto& file : fs::directory_iterator(path_ + "/db")) {
    if (file.path().extension() == ".log" && file.file_size() > 0) log = file.path();
  }
  const std::string good = ReadWholeFile(log).value();
  for (const size_t at : {good.size() - 20, good.size() / 2}) {
    SCOPED_TRACE(at);
    Reset();
    std::string bytes = good;
    bytes[at] ^= 8;
    Write(log, bytes);
    Write(path_ + "/commits", std::string(8192, 'x'));
    const std::set<Name> before = Whole();
    auto report = Verify();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(Text(*report), HasSubstr("db 0: its log is damaged"));
    auto result = RepairStore(path_, {});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->database, "salvaged");
    ASSERT_EQ(result->warnings.size(), 1u);
    EXPECT_THAT(result->warnings[0], HasSubstr("may be lost"));
    EXPECT_THAT(result->warnings[0], HasSubstr("of job alpha"));
    EXPECT_EQ(result->jobs_in_doubt, 2u);
    const std::set<Name> after = Whole();
    EXPECT_TRUE(std::includes(after.begin(), after.end(), before.begin(), before.end()));
    EXPECT_TRUE(Verify()->ok());
    EXPECT_TRUE(Store::Open(path_, {}).ok());
  }
  // With a whole log there is nothing to doubt.
  Reset();
  Write(path_ + "/commits", std::string(8192, 'x'));
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->warnings.size(), 0u);
  EXPECT_EQ(result->database, "whole");
  EXPECT_EQ(Whole().size(), models_.size());
}

// Of a store that has never been opened again no table file tells which tables there are: its log alone does.
TEST_F(RepairTest, AYoungStoresLogIsSalvagedAsFarAsItCanBeRead) {
  fs::remove_all(path_);
  models_.clear();
  {
    StoreOptions options;
    options.create_if_missing = true;
    auto store = Store::Open(path_, options);
    ASSERT_TRUE(store.ok()) << store.status();
    for (uint64_t epoch = 1; epoch <= 12; ++epoch) {
      auto writer = (*store)->BeginEpoch("young", epoch - 1);
      ASSERT_TRUE(writer.ok()) << writer.status();
      ModelTable model = epoch == 1 ? ModelTable() : models_[{"young", epoch - 1}];
      ASSERT_TRUE((*writer)->AddPages(1, {epoch, 1}, MakePage(epoch).data()).ok());
      model[{1, epoch}] = epoch;
      ASSERT_TRUE((*writer)->Commit({}, ImageOf({"young", epoch})).ok());
      models_[{"young", epoch}] = model;
    }
  }
  std::string log;
  for (const auto& file : fs::directory_iterator(path_ + "/db")) {
    EXPECT_NE(file.path().extension(), ".sst");
    if (file.path().extension() == ".log" && file.file_size() > 0) log = file.path();
  }
  std::string bytes = ReadWholeFile(log).value();
  ASSERT_GT(bytes.size(), 100'000u);
  bytes[bytes.size() - 20] ^= 1;  // The last epoch's record.
  Write(log, bytes);
  ASSERT_TRUE(absl::IsDataLoss(Store::Open(path_, {}).status()));
  std::set<Name> whole = Whole();
  EXPECT_EQ(whole.size(), 11u);
  ExpectRepaired(whole);
  EXPECT_EQ(Whole(), whole);
}

// Its copies of damaged packs would fill the disk, run by run.
TEST_F(RepairTest, ARepairThatFailsLeavesNoCopies) {
  std::string bytes = ReadWholeFile(path_ + "/packs/00000002.pack").value();
  std::fill_n(bytes.begin() + bytes.size() / 2, 6000, 'x');
  Write(path_ + "/packs/00000002.pack", bytes);
  const auto before = Contents(path_);
  for (const char* point : {"store.repair_source", "store.repair_rewrite", "store.repair_index", "store.repair_built"}) {
    ArmFaultPoints(std::string(point) + "=error");
    const absl::Status status = RepairStore(path_, {}).status();
    ArmFaultPoints("");
    EXPECT_THAT(status.message(), HasSubstr("nothing has changed, and what was made is removed")) << point;
    EXPECT_TRUE(Contents(path_) == before) << point;
  }
  // What one that was killed has left, the next one removes, and says so.
  ASSERT_TRUE(WIFSIGNALED(SelfChild({"--repair", path_}, "store.repair_built=kill").Wait()));
  EXPECT_TRUE(fs::exists(path_ + "/repair.tmp/packs"));
  auto packs = [&] { return std::distance(fs::directory_iterator(path_ + "/packs"), {}); };
  const auto count = packs();
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->done[0], HasSubstr("what an interrupted repair had made"));
  EXPECT_EQ(packs(), count) << "one away, one new";
  EXPECT_FALSE(fs::exists(path_ + "/repair.tmp"));
}

// A repair drops a job's last epoch; later a crash leaves a table file that the database does not know. Nothing has been
// forgotten.
TEST_F(RepairTest, WhatARepairHasDroppedIsNotTakenForForgotten) {
  SpoilImageOfAlpha(6);
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->dropped.size(), 1u);
  EXPECT_TRUE(Store::Open(path_, {}).ok());  // Table files.
  for (const auto& file : fs::directory_iterator(path_ + "/db")) {
    if (file.path().extension() != ".sst") continue;
    fs::copy_file(file.path(), path_ + "/db/900001.sst");
    break;
  }
  ASSERT_TRUE(fs::exists(path_ + "/db/900001.sst"));
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->ok()) << Text(*report);
  EXPECT_FALSE(RepairStore(path_, {})->damaged);
  auto store = Store::Open(path_, {});
  ASSERT_TRUE(store.ok()) << store.status();
  auto writer = (*store)->BeginEpoch("alpha", 5);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->epoch(), 7u) << "no number is given twice";
}

TEST_F(RepairTest, OneEpochIsVerifiedThoughARecordIsDamaged) {
  auto db = KvDb::Open(path_ + "/db", KvDb::Mode::kReadWrite);
  ASSERT_TRUE(db.ok()) << db.status();
  const std::string key("alpha\0\0\0\0\0\0\0\0\5", 14);  // A delta; epoch 6 goes on from it.
  std::string record = (*db)->Get(KvTable::kEpochs, key).value();
  record[20] ^= 1;
  KvBatch batch;
  batch.Add(KvTable::kEpochs, key, record);
  ASSERT_TRUE((*db)->Write(batch, true).ok());
  db->reset();
  for (uint64_t epoch = 1; epoch <= 6; ++epoch) {
    SCOPED_TRACE(epoch);
    VerifyOptions options;
    options.job = "alpha";
    options.epoch = epoch == 6 ? 0 : epoch;
    options.latest = epoch == 6;
    auto report = VerifyStore(path_, options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->epoch, epoch);
    EXPECT_EQ(report->epochs, 1u);
    EXPECT_EQ(report->ok(), epoch < 5) << Text(*report);
    if (epoch < 5) continue;
    ASSERT_EQ(report->damaged_epochs.size(), 1u);
    EXPECT_EQ(report->damaged_epochs[0].epoch, epoch);
    ASSERT_GT(report->damaged_epochs[0].problems.size(), 0u);
    EXPECT_THAT(report->damaged_epochs[0].problems[0], HasSubstr("epoch 5 of job alpha: epoch record damaged"));
    EXPECT_EQ(report->pages > 0, epoch == 6) << "what its own manifest names";
  }
  VerifyOptions none;
  none.job = "alpha";
  none.epoch = 99;
  EXPECT_TRUE(absl::IsNotFound(VerifyStore(path_, none).status()));
}

TEST_F(RepairTest, OneEpochIsVerifiedAlone) {
  fs::resize_file(path_ + "/packs/00000002.pack", 5000);
  const std::set<Name> whole = Whole();
  for (const auto& [name, model] : models_) {
    VerifyOptions options;
    options.job = name.first;
    options.epoch = name.second;
    auto report = VerifyStore(path_, options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->epochs, 1u);
    EXPECT_EQ(report->ok(), whole.count(name) == 1) << Text(*report);
  }
  VerifyOptions none;
  none.job = "alpha";
  none.epoch = 99;
  EXPECT_TRUE(absl::IsNotFound(VerifyStore(path_, none).status()));
}

TEST_F(RepairTest, ADroppedAncestorCostsItsDescendantsNothing) {
  // Its image alone is lost.
  SpoilImageOfAlpha(2);
  std::set<Name> whole = Whole();
  EXPECT_EQ(whole.size(), models_.size() - 1);
  ExpectRepaired(whole);
  EXPECT_EQ(Whole(), whole);
  auto store = Store::Open(path_, {});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->GetEpoch("alpha", 3)->parent(), 1u) << "the nearest that is left";
}

TEST_F(RepairTest, WithoutADatabaseThePagesAreKeptAndItIsSaid) {
  fs::remove_all(path_ + "/db");
  auto report = Verify();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->ok());
  EXPECT_GT(report->pages, 100u) << "the packs are read all the same";
  auto result = RepairStore(path_, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->database, "lost");
  EXPECT_THAT(result->done[1], HasSubstr("no epoch can be saved"));
  StoreOptions options;
  auto store = Store::Open(path_, options);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->ListJobs().empty());
  auto writer = (*store)->BeginEpoch("alpha", 0);
  ASSERT_TRUE(writer.ok());
  const ModelTable& model = models_.at({"alpha", 6});
  for (const auto& [place, seed] : model) {
    ASSERT_TRUE((*writer)->AddPages(place.first, {place.second, 1}, MakePage(seed).data()).ok());
  }
  auto record = (*writer)->Commit({}, "");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->stats().pages_stored(), 0u);
}

TEST_F(RepairTest, AStoreInUseIsRefused) {
  auto store = Store::Open(path_, {});
  ASSERT_TRUE(store.ok());
  const absl::Status status = RepairStore(path_, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("is locked by process"));
  EXPECT_TRUE(Verify()->ok()) << "verify reads beside a writer";
}

TEST_F(RepairTest, ADryRunChangesNothing) {
  fs::remove(path_ + "/packs/00000001.pack");
  const auto before = Contents(path_);
  RepairOptions options;
  options.dry_run = true;
  auto result = RepairStore(path_, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->damaged);
  EXPECT_GT(result->dropped.size(), 0u);
  EXPECT_TRUE(Contents(path_) == before);
  auto done = RepairStore(path_, {});
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->dropped.size(), result->dropped.size());
}

TEST_F(RepairTest, ADamagedTableFileGivesItsOtherBlocks) {
  std::string table;
  uint64_t rows_before = 0;
  for (const auto& file : fs::directory_iterator(path_ + "/db")) {
    if (file.path().extension() != ".sst") continue;
    uint64_t rows = 0;
    auto count = [&](KvTable of, absl::string_view, absl::string_view) {
      rows += of == KvTable::kImages;
      return absl::OkStatus();
    };
    ASSERT_TRUE(ReadTableFile(file.path(), count).ok());
    if (rows > rows_before) rows_before = rows, table = file.path();
  }
  ASSERT_GT(rows_before, 2u);
  std::string bytes = ReadWholeFile(table).value();
  bytes[10] ^= 1;  // The first block.
  Write(table, bytes);
  uint64_t rows = 0;
  auto count = [&](KvTable, absl::string_view, absl::string_view) {
    ++rows;
    return absl::OkStatus();
  };
  ASSERT_TRUE(ReadTableFile(table, count).ok());
  EXPECT_EQ(rows, rows_before - 1) << "each image is a block of its own";
}

// RocksDB aborts where it reads a list of properties with certain bits flipped, and where its repair meets a file that has
// none. Neither gets to see one.
TEST_F(RepairTest, NoBitAtATableFilesEndCrashesItsReader) {
  for (const std::string& table : TableFiles()) {
    SCOPED_TRACE(table);
    const std::string whole = ReadWholeFile(path_ + "/" + table).value();
    const std::string copy = directory_ / "000001.sst";
    auto none = [](KvTable, absl::string_view, absl::string_view) { return absl::OkStatus(); };
    Write(copy, whole);
    ASSERT_TRUE(ReadTableFile(copy, none).ok());
    for (size_t at = whole.size() - std::min<size_t>(whole.size(), 1300); at < whole.size(); ++at) {
      std::string bytes = whole;
      bytes[at] ^= 1 << at % 8;
      Write(copy, bytes);
      (void)ReadTableFile(copy, none);
      bytes[at] = whole[at] ^ 0x80;
      Write(copy, bytes);
      (void)ReadTableFile(copy, none);
    }
  }
}

// Zeros up to the footer's type of checksum, which then is "none".
TEST_F(RepairTest, ATableFileWithoutPropertiesIsDamaged) {
  for (const std::string& table : TableFiles()) {
    SCOPED_TRACE(table);
    Reset();
    std::string bytes = ReadWholeFile(path_ + "/" + table).value();
    bytes[10] ^= 1;  // Its first block, too: the database is not whole.
    ASSERT_GT(bytes.size(), 600u);
    std::fill(bytes.end() - std::min<size_t>(bytes.size() - 100, 1300), bytes.end() - 52, '\0');
    Write(path_ + "/" + table, bytes);
    auto none = [](KvTable, absl::string_view, absl::string_view) { return absl::OkStatus(); };
    EXPECT_THAT(ReadTableFile(path_ + "/" + table, none).message(), HasSubstr("said to be of type 0"));
    auto report = Verify();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->ok());
    const std::string copy = directory_ / "copy";
    fs::remove_all(copy);
    EXPECT_TRUE(SalvageDatabase(path_ + "/db", copy).ok());
    ExpectRepaired(Whole());
    if (HasFailure()) return;
  }
}

// A child repairs and is killed at a point; the next repair finishes.
TEST_F(RepairTest, KilledAtAnyPointItCanBeRunAgain) {
  for (const char* point :
       {"store.repair_source", "store.repair_rewrite", "store.repair_index", "store.repair_built",
        "store.repair_ready", "store.repair_between", "store.repair_swapped", "store.repair_packs_moved",
        "store.after_pack_write", "store.kv_write"}) {
    SCOPED_TRACE(point);
    Reset();
    std::string bytes = ReadWholeFile(path_ + "/packs/00000002.pack").value();
    std::fill_n(bytes.begin() + bytes.size() / 2, 6000, 'x');
    Write(path_ + "/packs/00000002.pack", bytes);
    const std::set<Name> whole = Whole();
    EXPECT_LT(whole.size(), models_.size());
    const int status = SelfChild({"--repair", path_}, std::string(point) + "=kill").Wait();
    ASSERT_TRUE(WIFSIGNALED(status)) << "the point was not passed: " << status;
    // A writer would take the copies that the new database refers to for leftovers.
    if (fs::exists(path_ + "/repair.tmp/ready")) {
      EXPECT_EQ(Store::Open(path_, {}).status().code(), absl::StatusCode::kFailedPrecondition);
    }
    ExpectRepaired(whole);
    EXPECT_EQ(Whole(), whole);
    if (HasFailure()) return;
  }
}

// Root would leave files there that its owner cannot read.
TEST_F(RepairTest, AnotherUsersStoreIsLeftAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  const std::set<Name> whole = Whole();
  Write(path_ + "/FORMAT", "damaged");
  ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
  EXPECT_EQ(RepairStore(path_, {}).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReadWholeFile(path_ + "/FORMAT").value(), "damaged");
  ASSERT_EQ(::chown(path_.c_str(), ::geteuid(), ::getegid()), 0);
  EXPECT_TRUE(RepairStore(path_, {}).ok());
  EXPECT_EQ(Whole(), whole);
}

// The old database may be set aside already: the new one must not go.
TEST_F(RepairTest, AnErrorAtAnyPointItCanBeRunAgain) {
  for (const char* point :
       {"store.repair_source", "store.repair_rewrite", "store.repair_index", "store.repair_built",
        "store.repair_ready", "store.repair_between", "store.repair_swapped", "store.repair_packs_moved"}) {
    SCOPED_TRACE(point);
    Reset();
    std::string bytes = ReadWholeFile(path_ + "/packs/00000002.pack").value();
    std::fill_n(bytes.begin() + bytes.size() / 2, 6000, 'x');
    Write(path_ + "/packs/00000002.pack", bytes);
    const std::set<Name> whole = Whole();
    ArmFaultPoints(std::string(point) + "=error");
    EXPECT_FALSE(RepairStore(path_, {}).ok());
    ArmFaultPoints("");
    ExpectRepaired(whole);
    EXPECT_EQ(Whole(), whole);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--repair") {
    return incr::RepairStore(argv[2], {}).ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
