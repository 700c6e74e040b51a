// verb_fixture.h — for the store's tests: a store of two jobs, and what a command does to a copy of it, on a disk that
// need not be what it should be.
#ifndef INCR_CKPT_STORE_VERB_FIXTURE_H_
#define INCR_CKPT_STORE_VERB_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "store/export.h"
#include "store/import.h"
#include "store/repair.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/verify.h"

namespace incr {

enum class Verb { kEpochs, kGc, kRepair, kExport, kImport };

inline const char* VerbName(Verb verb) {
  constexpr const char* kNames[] = {"Epochs", "Gc", "Repair", "Export", "Import"};
  return kNames[static_cast<int>(verb)];
}

class VerbFixture : public ::testing::Test {
 protected:
  using Name = std::pair<std::string, uint64_t>;
  static constexpr uint64_t kKept = 2, kEpochs = 8, kMore = 3;

  VerbFixture() {
    ::mkdir(good_.c_str(), 0700);
    for (int session = 0; session < 2; ++session) {  // The first one's end is in table files then.
      auto store = Store::Open(good_ + "/store", Options());
      INCR_CHECK(store.ok());
      for (uint64_t n = 0; n < kEpochs / 2; ++n) {
        INCR_CHECK(Put(**store, "alpha").ok());
        if (n % 2 == 0) INCR_CHECK(Put(**store, "beta").ok());
      }
    }
    before_ = models_;
    before_last_ = last_;
    const auto reader = StoreReader::Open(good_ + "/store");
    INCR_CHECK(reader.ok() && Export(**reader, directory_ / "in", FileIo()).ok());
  }

  static StoreOptions Options(FileFaults* faults = nullptr) {
    StoreOptions options;
    options.create_if_missing = true;
    options.full_table_every = 3;
    options.pack_bytes = 150'000;
    options.workers = 1;
    options.faults = faults;
    return options;
  }

  static std::string ImageOf(const Name& name) { return std::string(3000, char('a' + name.second % 26)) + name.first; }

  // The next epoch of `job`. Its model counts whether it becomes durable or not.
  absl::Status Put(Store& store, const std::string& job) {
    const uint64_t parent = last_[job], epoch = parent + 1;
    ModelTable model = parent == 0 ? ModelTable() : models_[{job, parent}];
    std::mt19937_64 random(epoch * 31 + job.size());
    INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch(job, parent));
    for (int n = parent == 0 ? 60 : 25; n > 0; --n) {
      const uint64_t page = random() % 80, seed = random() % 700;
      INCR_RETURN_IF_ERROR(writer->AddPages(0, {page, 1}, MakePage(seed).data()));
      model[{0, page}] = seed;
    }
    models_[{job, epoch}] = model;
    INCR_RETURN_IF_ERROR(writer->Commit({}, ImageOf({job, epoch})).status());
    last_[job] = epoch;
    return absl::OkStatus();
  }

  static absl::Status Export(const StoreReader& reader, const std::string& file, FileIo io) {
    INCR_ASSIGN_OR_RETURN(ExportFile output, ExportFile::Open(file, io));
    INCR_RETURN_IF_ERROR(ExportEpochs(reader, "alpha", {kEpochs - 1, kEpochs}, output.fd(), output.name(), nullptr, io).status());
    return output.Finish();
  }

  absl::Status Import(Store& store, FileIo io) {
    INCR_ASSIGN_OR_RETURN(const ScopedFd fd, OpenFile(directory_ / "in", O_RDONLY));
    ImportOptions options{"copy", directory_ / "in", nullptr, nullptr, nullptr, io};
    return ImportEpochs(&store, fd.get(), options).status();
  }

  // On `root`/store; an export goes to `root`/out.
  absl::Status Run(Verb verb, const std::string& root, FileFaults* faults) {
    const std::string path = root + "/store";
    if (verb == Verb::kRepair) {
      RepairOptions options;
      options.faults = faults;
      return RepairStore(path, options).status();
    }
    if (verb == Verb::kExport) {
      INCR_ASSIGN_OR_RETURN(const auto reader, StoreReader::Open(path, faults));
      return Export(*reader, root + "/out", FileIo(faults));
    }
    INCR_ASSIGN_OR_RETURN(const auto store, Store::Open(path, Options(faults)));
    if (verb == Verb::kImport) return Import(*store, FileIo(faults));
    if (verb == Verb::kGc) {
      GcOptions gc;
      gc.policy.keep_last = kKept;
      gc.recompress_zstd = true;
      return store->CollectGarbage(gc).status();
    }
    for (uint64_t n = 0; n < kMore; ++n) INCR_RETURN_IF_ERROR(Put(*store, "alpha"));
    return absl::OkStatus();
  }

  // A copy of the store for `verb` to work on; for repair, one with a damaged body.
  void Prepare(Verb verb, const std::string& root) {
    std::filesystem::remove_all(root);
    std::filesystem::copy(good_, root, std::filesystem::copy_options::recursive);
    models_ = before_;
    last_ = before_last_;
    must_.clear();
    for (const auto& [name, model] : models_) must_.insert(name);
    if (verb == Verb::kGc) {
      std::erase_if(must_, [&](const Name& name) { return name.second + kKept <= last_[name.first]; });
    }
    if (verb != Verb::kRepair) return;
    const std::string pack = root + "/store/packs/00000002.pack";
    std::string bytes = ReadWholeFile(pack).value();
    std::fill_n(bytes.begin() + bytes.size() / 2, 3000, 'x');
    std::ofstream(pack, std::ios::binary) << bytes;
    must_ = WholeIn(root + "/store");
    INCR_CHECK(!must_.empty() && must_.size() < models_.size());
  }

  // Epochs that read back as they were written; wrong bytes fail the test.
  std::set<Name> WholeIn(const std::string& path) {
    std::set<Name> whole;
    const auto reader = StoreReader::Open(path);
    if (!reader.ok()) return whole;
    for (const auto& [name, model] : models_) {
      const std::string difference = Difference(**reader, name.first, name.second, model);
      EXPECT_FALSE(absl::StrContains(difference, "wrong bytes")) << name.first << " " << name.second;
      const auto image = (*reader)->ReadImage(name.first, name.second);
      EXPECT_EQ(image.value_or(ImageOf(name)), ImageOf(name));
      if (difference.empty() && image.ok()) whole.insert(name);
    }
    return whole;
  }

  // What must be there, is, byte for byte, for readers and for a writer; an import is there whole or not at all.
  void ExpectWhole(const std::string& root, bool imported = false) {
    const std::string path = root + "/store";
    const absl::Status opened = Store::Open(path, Options()).status();
    if (std::filesystem::exists(path + "/repair.tmp/ready")) {
      EXPECT_EQ(opened.code(), absl::StatusCode::kFailedPrecondition) << opened;
      EXPECT_TRUE(absl::StrContains(opened.message(), "incr-ckpt repair")) << opened;
      return;
    }
    ASSERT_TRUE(opened.ok()) << opened;
    const std::set<Name> whole = WholeIn(path);
    for (const Name& name : must_) EXPECT_EQ(whole.count(name), 1u) << name.first << " " << name.second;
    const auto reader = StoreReader::Open(path);
    ASSERT_TRUE(reader.ok()) << reader.status();
    const auto copies = (*reader)->ListEpochs("copy");
    EXPECT_TRUE(copies.ok() || !imported) << copies.status();
    for (uint64_t n = 0; copies.ok() && n < copies->size(); ++n) {
      EXPECT_EQ(copies->size() % 2, 0u);
      EXPECT_EQ(Difference(**reader, "copy", (*copies)[n].epoch(), models_[{"alpha", kEpochs - 1 + n % 2}]), "");
    }
  }

  // The verb run again, on a good disk: it succeeds, and nothing is damaged then.
  void ExpectDoneAgain(Verb verb, const std::string& root) {
    if (verb == Verb::kEpochs) {  // From what there is.
      const auto reader = StoreReader::Open(root + "/store");
      ASSERT_TRUE(reader.ok()) << reader.status();
      last_["alpha"] = (*reader)->LatestEpoch("alpha")->epoch();
      for (uint64_t n = 1; n <= last_["alpha"]; ++n) must_.insert({"alpha", n});
    }
    const absl::Status again = Run(verb, root, nullptr);
    ASSERT_TRUE(again.ok()) << again;
    ExpectWhole(root, verb == Verb::kImport);
    const auto report = VerifyStore(root + "/store", {});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->ok()) << (report->damage.empty() ? "epochs" : report->damage[0].what);
    if (verb == Verb::kExport) {
      EXPECT_TRUE(ReadWholeFile(root + "/out").value() == ReadWholeFile(directory_ / "in").value());
    }
    EXPECT_FALSE(std::filesystem::exists(root + "/store/repair.tmp"));
  }

  // In memory: what is lost is decided by the tests.
  TempDirectory directory_{"/dev/shm"};
  const std::string good_ = directory_ / "good";
  std::map<Name, ModelTable> models_, before_;
  std::map<std::string, uint64_t> last_, before_last_;
  std::set<Name> must_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_VERB_FIXTURE_H_
