// Every operation of gc (with rewriting and zstd), repair, export and import fails in turn, in every way a disk can: a
// clear error or success, nothing that must be there is lost, and the command can be run again.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "base/fault_point.h"
#include "store/faulty_disk.h"
#include "store/verb_fixture.h"

namespace incr {
namespace {

struct Kind {
  const char* name;
  DiskFault fault;
  const char* says;  // what a message about it must have; "": nothing may fail
};

const Kind kKinds[] = {
    {"NoSpace", {.error = ENOSPC}, "No space left"},
    {"FullFromThereOn", {.error = ENOSPC, .lasting = true, .ignore_syncs = true}, "No space left"},
    {"IoError", {.error = EIO}, "Input/output error"},
    {"BrokenFromThereOn", {.error = EIO, .lasting = true}, "Input/output error"},
    {"TornWrite", {.error = EIO, .bytes = 100}, "Input/output error"},
    {"TornByTheFullDisk", {.error = ENOSPC, .bytes = 3000}, "No space left"},
    {"ShortWrite", {.bytes = 700}, ""},
    {"Interrupted", {.error = EINTR}, ""},
    {"ReadError", {.error = EIO, .on_reads = true}, "Input/output error"},
};

// Every so manyth operation fails, without INCR_CKPT_FAULTS_ALL.
uint64_t StrideOf(Verb verb, const Kind& kind) {
  if (verb == Verb::kExport) return 2;
  if (kind.says[0] == '\0') return 53;
  return verb == Verb::kGc ? 41 : 17;
}

class VerbFaultsTest : public VerbFixture, public ::testing::WithParamInterface<Verb> {};

TEST_P(VerbFaultsTest, AnErrorAtAnyOperation) {
  const Verb verb = GetParam();
  const bool all = std::getenv("INCR_CKPT_FAULTS_ALL") != nullptr;
  const std::string root = directory_ / "live";
  int trials = 0, failed = 0;
  for (size_t k = 0; k < std::size(kKinds); ++k) {
    const Kind& kind = kKinds[k];
    FaultyDisk disk;
    const uint64_t first = all ? 1 : 1 + k % 2 + (verb == Verb::kExport ? 0 : k * 3);
    for (uint64_t at = first;; at += all ? 1 : StrideOf(verb, kind)) {
      Prepare(verb, root);
      disk.Arm(kind.fault, at);
      const absl::Status status = Run(verb, root, &disk);
      const std::string hit = disk.hit();
      disk.Disarm();
      if (hit.empty()) break;
      SCOPED_TRACE(absl::StrCat(VerbName(verb), ", ", kind.name, " at call ", at, " on ", hit, ": ", status.ToString()));
      ++trials;
      failed += !status.ok();
      if (!status.ok()) {
        EXPECT_NE(std::string(kind.says), "") << "must not fail";
        EXPECT_TRUE(absl::StrContains(status.message(), kind.says));
        EXPECT_TRUE(absl::StrContains(status.message(), directory_.path())) << "does not say where";
      }
      if (std::filesystem::exists(root + "/out")) {
        EXPECT_TRUE(ReadWholeFile(root + "/out").value() == ReadWholeFile(directory_ / "in").value());
      }
      ExpectWhole(root, verb == Verb::kImport && status.ok());
      if (HasFailure()) return;
      ExpectDoneAgain(verb, root);
      if (HasFailure()) return;
      ASSERT_LT(at, 5000u);
    }
  }
  std::printf("%s: %d trials, %d failed\n", VerbName(verb), trials, failed);
  EXPECT_GT(trials, 10);
  EXPECT_GT(failed, 3);
}

INSTANTIATE_TEST_SUITE_P(Verbs, VerbFaultsTest,
                         ::testing::Values(Verb::kGc, Verb::kRepair, Verb::kExport, Verb::kImport),
                         [](const auto& info) { return std::string(VerbName(info.param)); });

// What the trials above are about does happen.
TEST_F(VerbFixture, GcRewritesManifestsAndPacks) {
  const std::string root = directory_ / "live";
  Prepare(Verb::kGc, root);
  auto store = Store::Open(root + "/store", Options());
  ASSERT_TRUE(store.ok()) << store.status();
  GcOptions gc;
  gc.policy.keep_last = kKept;
  gc.recompress_zstd = true;
  const auto collected = (*store)->CollectGarbage(gc);
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_GT(collected->epochs_rewritten, 0u);
  EXPECT_GT(collected->packs_rewritten, 0u);
  EXPECT_GT(collected->packs_deleted, 0u);
}

// Loses what was not synced when a write fails, as a device that is reset does. Then the database, opened anew,
// knows nothing of it.
class ForgetfulDisk : public FileFaults {
 public:
  void FailNextLogWrite() { armed_ = true; }

  Verdict Before(const FileCall& call) override {
    if (call.op != FileOp::kWrite || !absl::EndsWith(call.path, ".log") || !armed_.exchange(false)) return {};
    std::lock_guard lock(mutex_);
    if (const auto synced = synced_.find(call.path); synced != synced_.end()) {
      std::filesystem::resize_file(call.path, synced->second);
    }
    Verdict verdict;
    verdict.error = EIO;
    return verdict;
  }
  void After(const FileCall& call) override {
    std::lock_guard lock(mutex_);
    if (call.op == FileOp::kCreate) synced_.emplace(call.path, 0);
    if (call.op == FileOp::kSync) synced_[call.path] = std::filesystem::file_size(call.path);
  }

 private:
  std::atomic<bool> armed_{false};
  std::mutex mutex_;
  std::map<std::string, uint64_t> synced_;  // bytes
};

// gc has written new manifests; before it refers to them a write of an import fails, and takes them along.
TEST_F(VerbFixture, GcRefersToNoManifestThatIsNotOnTheDisk) {
  const std::string root = directory_ / "live";
  Prepare(Verb::kGc, root);
  ForgetfulDisk disk;
  auto store = Store::Open(root + "/store", Options(&disk));
  ASSERT_TRUE(store.ok()) << store.status();
  auto importer = (*store)->BeginImport("other");
  ASSERT_TRUE(importer.ok()) << importer.status();
  GcOptions gc;
  gc.policy.keep_last = kKept;
  int looks = -1;  // at a job, once its new manifests are being made
  gc.progress = [&](const GcProgress& progress) {
    if (progress.step == "collapsing" && progress.done == 0) looks = 0;
    return absl::OkStatus();
  };
  gc.in_use = [&] {
    if (looks >= 0 && ++looks == 2) {
      pb::EpochRecord record;
      record.set_epoch(1);
      disk.FailNextLogWrite();
      EXPECT_FALSE((*importer)->AddEpoch(record, {}, "image").ok());
      record.set_epoch(2);  // Opens the database anew.
      EXPECT_TRUE((*importer)->AddEpoch(record, {}, "image").ok());
    }
    return std::vector<std::pair<std::string, uint64_t>>();
  };
  const auto collected = (*store)->CollectGarbage(gc);
  EXPECT_TRUE(collected.ok()) << collected.status();
  EXPECT_GT(looks, 2);
  importer->reset();
  store->reset();
  ExpectWhole(root);
  ExpectDoneAgain(Verb::kGc, root);
}

}  // namespace
}  // namespace incr
