// A process dies (-9) in which several jobs commit while gc, exports and imports run: at fault points of all of them and
// at random moments. What it acknowledged through a pipe before is there, byte for byte; the rest whole or not at all.
//
// INCR_CKPT_KILLS=N: so many kills (default 100); INCR_CKPT_KILL_SEED=N: other ones.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "store/export.h"
#include "store/export_format.h"
#include "store/import.h"
#include "store/self_child.h"
#include "store/store.h"
#include "store/test_pages.h"
#include "store/verify.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

constexpr int kJobs = 3;             // that commit; one more is imported
constexpr int kImported = kJobs;     // its number
constexpr uint64_t kPages = 120, kKept = 4;
constexpr uint64_t kImportedEpochs = 2;  // of one import

const char* const kPoints[] = {
    "store.after_pack_write", "store.after_pack_sync", "store.after_index", "store.after_manifest", "store.after_head",
    "store.pack_write", "store.pack_sync", "store.kv_write", "store.kv_write_unsure", "store.import_epoch",
    "store.import_packs", "store.import_index", "store.import_heads", "store.gc_after_manifest",
    "store.gc_before_unpublish", "store.gc_after_unpublish", "store.gc_after_orphans", "store.gc_after_mark",
    "store.gc_in_sweep", "store.gc_after_sweep", "store.gc_before_delete", "store.gc_after_forget",
    "store.gc_after_unlink", "store.gc_after_copy", "store.gc_after_move", "store.lease_before_lock"};

std::string JobName(int job) { return job == kImported ? "imported" : "job" + std::to_string(job); }

// What an epoch of a job does: known to the child that does it and to the parent that checks it.
ModelTable ChangesOf(int job, uint64_t epoch) {
  std::mt19937_64 random(epoch * 7919 + job);
  ModelTable changes;
  for (int n = epoch == 1 ? 80 : 25; n > 0; --n) {
    // Seeds repeat in other epochs and jobs: pages are shared with what gc drops.
    const uint64_t page = random() % kPages;
    changes[{0, page}] = random() % 800;
  }
  return changes;
}

ModelTable Overlaid(ModelTable model, const ModelTable& changes) {
  for (const auto& [place, seed] : changes) model[place] = seed;
  return model;
}

// The file has two epochs, which become numbers 1 and 2, 3 and 4, and so on.
ModelTable ImportedModel(uint64_t epoch) {
  const ModelTable first = ChangesOf(kImported, 1);
  return epoch % kImportedEpochs == 1 ? first : Overlaid(first, ChangesOf(kImported, 2));
}

std::string ImageOf(int job, uint64_t epoch) { return JobName(job) + std::string(epoch * 37 % 3000, 'i'); }

StoreOptions Options() {
  StoreOptions options;
  options.create_if_missing = true;
  options.workers = 2;
  options.full_table_every = 5;
  options.pack_bytes = 200 << 10;
  return options;
}

absl::Status WriteEpoch(Store& store, int job, uint64_t epoch) {
  INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch(JobName(job), epoch - 1));
  INCR_CHECK(writer->epoch() == epoch);
  for (const auto& [place, seed] : ChangesOf(job, epoch)) {
    INCR_RETURN_IF_ERROR(writer->AddPages(place.first, {place.second, 1}, MakePage(seed).data()));
  }
  return writer->Commit({}, ImageOf(job, epoch)).status();
}

uint64_t HeadOf(const StoreReader& store, int job) {
  const auto record = store.LatestEpoch(JobName(job));
  return record.ok() ? record->epoch() : 0;
}

struct Acknowledgement {
  uint32_t job = 0, exported = 0;  // exported: `number` is that of a file
  uint64_t number = 0;             // of an epoch; 0: the store is open
};

// ---- the child: four things at once until it is killed ----

class Child {
 public:
  Child(std::string root, int fd, uint64_t seed) : root_(std::move(root)), fd_(fd), seed_(seed) {}

  int Run() {
    auto store = Store::Open(root_ + "/store", Options());
    if (!store.ok()) return Fail("open", store.status());
    store_ = *std::move(store);
    Tell({});
    std::vector<std::thread> threads;
    for (int job = 0; job < kJobs; ++job) {
      threads.emplace_back([this, job] {
        for (uint64_t epoch = HeadOf(*store_, job) + 1;; ++epoch) {
          const absl::Status status = WriteEpoch(*store_, job, epoch);
          if (!status.ok()) std::exit(Fail("epoch", status));
          Tell({static_cast<uint32_t>(job), 0, epoch});
        }
      });
    }
    threads.emplace_back([this] { Collect(); });
    threads.emplace_back([this] { Export(); });
    threads.emplace_back([this] { Import(); });
    for (std::thread& thread : threads) thread.join();
    return 0;
  }

 private:
  static int Fail(const char* what, const absl::Status& status) {
    std::fprintf(stderr, "child: %s: %s\n", what, status.ToString().c_str());
    return 3;
  }
  void Tell(const Acknowledgement& done) { INCR_CHECK(::write(fd_, &done, sizeof done) == sizeof done); }

  void Collect() {
    for (uint64_t n = seed_;; ++n) {
      GcOptions gc;
      gc.policy.keep_last = kKept;
      gc.recompress_zstd = n % 2 == 0;
      gc.thorough = n % 3 == 0;
      gc.reader_patience_us = 20'000;
      const auto collected = store_->CollectGarbage(gc);
      if (!collected.ok()) std::exit(Fail("gc", collected.status()));
    }
  }
  void Export() {
    for (uint64_t number = seed_ * 1000;; ++number) {
      const absl::Status status = ExportOne(number);
      if (absl::IsNotFound(status)) {  // There is no epoch yet.
        ::usleep(1000);
        continue;
      }
      if (!status.ok()) std::exit(Fail("export", status));
      Tell({0, 1, number});
    }
  }
  absl::Status ExportOne(uint64_t number) {
    INCR_ASSIGN_OR_RETURN(const auto reader, StoreReader::Open(root_ + "/store"));
    INCR_ASSIGN_OR_RETURN(const pb::EpochRecord last, reader->LatestEpoch(JobName(0)));
    INCR_ASSIGN_OR_RETURN(ExportFile file, ExportFile::Open(root_ + "/exports/" + std::to_string(number)));
    INCR_RETURN_IF_ERROR(ExportEpochs(*reader, JobName(0), {last.epoch()}, file.fd(), file.name(), nullptr).status());
    return file.Finish();
  }
  void Import() {
    for (;;) {
      const auto file = OpenFile(root_ + "/file", O_RDONLY);
      if (!file.ok()) std::exit(Fail("file", file.status()));
      ImportOptions options;
      options.job = JobName(kImported);
      const auto result = ImportEpochs(store_.get(), file->get(), options);
      if (!result.ok()) std::exit(Fail("import", result.status()));
      Tell({kImported, 0, result->epochs.back().epoch});
      ::usleep(2000);
    }
  }

  const std::string root_;
  const int fd_;
  const uint64_t seed_;
  std::unique_ptr<Store> store_;
};

// ---- the parent ----

// Takes an exported epoch of job 0 in, and compares it.
class CheckExport : public ExportSink {
 public:
  explicit CheckExport(const std::function<const ModelTable&(uint64_t epoch)>& model) : model_(model) {}
  absl::Status Begin(const ExportHeader& header) override {
    return header.job == JobName(0) ? absl::OkStatus() : absl::DataLossError("of another job");
  }
  absl::Status AddPages(const uint8_t* pages, size_t count) override {
    for (size_t i = 0; i < count; ++i) {
      pages_.emplace_back();
      std::copy_n(pages + i * kPageSize, kPageSize, pages_.back().begin());
    }
    return absl::OkStatus();
  }
  absl::Status AddEpoch(pb::EpochRecord record, PageTable table, std::string image) override {
    const ModelTable& model = model_(record.epoch());
    if (table.size() != model.size()) return absl::DataLossError("another table");
    for (const PageTableEntry& entry : table) {
      const auto expected = model.find({entry.space, entry.page});
      if (expected == model.end()) return absl::DataLossError("another page");
      const PageBytes bytes = entry.id.is_zero_page() ? PageBytes{} : pages_[entry.id.low - 1];
      if (bytes != MakePage(expected->second)) return absl::DataLossError("wrong bytes");
    }
    return image == ImageOf(0, record.epoch()) ? absl::OkStatus() : absl::DataLossError("another image");
  }

 private:
  const std::function<const ModelTable&(uint64_t epoch)>& model_;
  std::vector<PageBytes> pages_;
};

class JobsKillTest : public ::testing::Test {
 protected:
  JobsKillTest() {
    fs::create_directory(root_ + "/exports");
    auto store = Store::Open(directory_ / "origin", Options());
    INCR_CHECK(store.ok());
    for (uint64_t epoch = 1; epoch <= kImportedEpochs; ++epoch) INCR_CHECK(WriteEpoch(**store, kImported, epoch).ok());
    auto file = ExportFile::Open(root_ + "/file");
    INCR_CHECK(file.ok());
    INCR_CHECK(ExportEpochs(**store, JobName(kImported), {1, 2}, file->fd(), "file", nullptr).ok() && file->Finish().ok());
  }

  // Starts a child, which dies at `point` or after so long. False: it ended by itself.
  bool RunAndKill(const std::string& point, uint64_t seed, int after_us, bool from_open) {
    SelfChild child({"--child", root_, std::to_string(SelfChild::kReportFd), std::to_string(seed)}, point);
    if (from_open) {
      Acknowledgement open;
      (void)child.Receive(&open);
    }
    ::usleep(after_us);
    child.Kill();
    Acknowledgement done;
    while (child.Receive(&done)) {
      ++acknowledgements_;
      if (done.exported) {
        exports_.push_back(done.number);
      } else if (done.number != 0) {
        acknowledged_[done.job] = std::max(acknowledged_[done.job], done.number);
      }
    }
    return WIFSIGNALED(child.Wait());
  }

  const ModelTable& ModelOf(int job, uint64_t epoch) {
    std::map<uint64_t, ModelTable>& models = models_[job];
    if (models.empty()) models[0];
    for (uint64_t next = models.rbegin()->first + 1; next <= epoch; ++next) {
      models[next] = job == kImported ? ImportedModel(next) : Overlaid(models.rbegin()->second, ChangesOf(job, next));
    }
    return models.at(epoch);
  }

  // gc has dropped them. The last model stays: the next ones are made from it.
  void ForgetModelsBefore(int job, uint64_t epoch) {
    std::map<uint64_t, ModelTable>& models = models_[job];
    while (models.size() > 1 && models.begin()->first < epoch) models.erase(models.begin());
  }

  void CheckJob(const StoreReader& store, int job) {
    SCOPED_TRACE(JobName(job));
    const auto records = store.ListEpochs(JobName(job));
    if (acknowledged_[job] == 0 && !records.ok()) return;
    ASSERT_TRUE(records.ok()) << records.status();
    const uint64_t head = records->back().epoch(), more = job == kImported ? kImportedEpochs : 1;
    ASSERT_GE(head, acknowledged_[job]) << "an acknowledged epoch is lost";
    ASSERT_LE(head, std::max(acknowledged_[job], head_[job]) + more);
    if (job == kImported) {
      ASSERT_EQ(head % kImportedEpochs, 0u) << "half an import";
    }
    head_[job] = head;
    ASSERT_GE(records->size(), std::min(kKept, head));
    for (size_t i = 0; i < std::min<uint64_t>(kKept, head); ++i) {
      ASSERT_EQ((*records)[records->size() - 1 - i].epoch(), head - i);
    }
    ForgetModelsBefore(job, (*records)[0].epoch());
    for (const pb::EpochRecord& record : *records) {
      const uint64_t epoch = record.epoch(), original = job == kImported ? (epoch - 1) % kImportedEpochs + 1 : epoch;
      ASSERT_EQ(Difference(store, JobName(job), epoch, ModelOf(job, epoch)), "") << epoch;
      ASSERT_EQ(store.ReadImage(JobName(job), epoch).value_or("?"), ImageOf(job, original));
    }
  }

  void CheckExports() {
    const std::function<const ModelTable&(uint64_t)> model = [&](uint64_t epoch) -> const ModelTable& {
      return ModelOf(0, epoch);
    };
    for (const uint64_t number : exports_) {
      EXPECT_TRUE(fs::exists(root_ + "/exports/" + std::to_string(number))) << number;
    }
    // Those that it did not come to acknowledge as well: what has its name is whole.
    for (const auto& entry : fs::directory_iterator(root_ + "/exports")) {
      if (!absl::EndsWith(entry.path().string(), ".tmp")) {
        const auto fd = OpenFile(entry.path(), O_RDONLY);
        ASSERT_TRUE(fd.ok());
        CheckExport sink(model);
        const absl::Status read = ParseExport(
            [&](char* to, size_t n) -> absl::StatusOr<size_t> { return ::read(fd->get(), to, n); }, &sink);
        EXPECT_TRUE(read.ok()) << entry.path() << ": " << read;
        ++exports_checked_;
      }
      fs::remove(entry.path());
    }
    exports_.clear();
  }

  void Check(bool verify) {
    CheckExports();  // Of epochs that gc may have dropped since.
    {
      auto store = Store::Open(root_ + "/store", Options());
      ASSERT_TRUE(store.ok()) << store.status();
      for (int job = 0; job <= kJobs; ++job) {
        CheckJob(**store, job);
        if (HasFatalFailure()) return;
      }
    }
    if (!verify) return;
    const auto report = VerifyStore(root_ + "/store", {});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->ok()) << (report->damage.empty() ? "epochs" : report->damage[0].what);
  }

  TempDirectory directory_{"/dev/shm"};  // The kernel lives on: nothing needs a disk.
  const std::string root_ = directory_.path();
  std::map<int, uint64_t> acknowledged_, head_;
  std::map<int, std::map<uint64_t, ModelTable>> models_;
  std::vector<uint64_t> exports_;
  uint64_t acknowledgements_ = 0, exports_checked_ = 0;
};

TEST_F(JobsKillTest, NothingAcknowledgedIsLost) {
  const char* setting = std::getenv("INCR_CKPT_KILLS");
  const char* seed = std::getenv("INCR_CKPT_KILL_SEED");
  const int kills = setting != nullptr ? std::atoi(setting) : 100;
  std::mt19937_64 random(seed != nullptr ? std::atoi(seed) : 20261129);
  for (int n = 0; n < kills; ++n) {
    std::string point;
    if (n % 2 == 0) {
      point = kPoints[n / 2 % std::size(kPoints)];
      point += "=kill:" + std::to_string(1 + random() % (n % 4 == 0 ? 3 : 20));
    }
    const int after_us = point.empty() ? 1 + random() % 120'000 : 150'000;
    const bool from_open = n % 10 != 1;
    SCOPED_TRACE("kill " + std::to_string(n) + " " + point + ", after " + std::to_string(after_us) + " us");
    ASSERT_TRUE(RunAndKill(point, n + 1, after_us, from_open)) << "it failed before it was killed";
    if (!fs::exists(root_ + "/store/FORMAT")) continue;  // Killed while the store was made.
    Check(n % 10 == 9);
    if (HasFailure()) return;
  }
  std::printf("%d kills, %llu acknowledgements, %llu exports; heads", kills,
              static_cast<unsigned long long>(acknowledgements_), static_cast<unsigned long long>(exports_checked_));
  for (const auto& [job, head] : head_) {
    std::printf(" %llu", static_cast<unsigned long long>(head));
    EXPECT_GT(head, static_cast<uint64_t>(kills) / 4) << "too slow to show anything: " << JobName(job);
  }
  std::printf("\n");
  EXPECT_GT(exports_checked_, static_cast<uint64_t>(kills) / 4);
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--child") {
    return incr::Child(argv[2], std::atoi(argv[3]), std::strtoull(argv[4], nullptr, 10)).Run();
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
