// What a power cut leaves: of every file what was last synced, or, as the disk pleases, any
// part of what was written since. This program replaces fdatasync and its like (for itself and for
// RocksDB) to know what was synced, takes such pictures of a store while epochs are
// written, and opens each of them: every epoch acknowledged before the cut must be there. The
// pages of a log's unsynced end reach the disk in any order: some pictures have a hole there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>

#include "base/file.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

// The disk under one directory.
class Disk {
 public:
  Disk(std::string root, std::string pictures, double share, int seed)
      : root_(std::move(root)), pictures_(std::move(pictures)), share_(share), random_(seed) {}

  // `fd` is about to be synced: the power may fail before that. Afterwards it counts.
  void BeforeSync() {
    std::lock_guard lock(mutex_);
    if (std::uniform_real_distribution<>()(random_) < share_) TakePicture();
  }
  void Synced(int fd) {
    const std::string path = ReadLink("/proc/self/fd/" + std::to_string(fd)).value_or("");
    if (path.compare(0, root_.size(), root_) != 0 || !fs::is_regular_file(path)) return;
    const std::string content = ReadWholeFile(path).value_or("");
    std::lock_guard lock(mutex_);
    synced_[path] = content;
  }
  // Names change in order and at once, as in a journal.
  void Renamed(const std::string& from, const std::string& to) {
    std::lock_guard lock(mutex_);
    if (auto node = synced_.extract(from); !node.empty()) {
      synced_.erase(to);
      node.key() = to;
      synced_.insert(std::move(node));
    }
  }
  void Linked(const std::string& from, const std::string& to) {
    std::lock_guard lock(mutex_);
    if (synced_.count(from)) synced_[to] = synced_[from];
  }
  void Removed(const std::string& path) {
    std::lock_guard lock(mutex_);
    synced_.erase(path);
  }

  struct Picture {
    std::string directory;
    uint64_t acknowledged;
  };
  const std::vector<Picture>& pictures() const { return taken_; }
  int holes() const { return holes_; }
  std::atomic<uint64_t> acknowledged{0};

 private:
  void TakePicture() {
    const std::string to = pictures_ + "/" + std::to_string(taken_.size());
    taken_.push_back({to, acknowledged});
    for (const auto& entry : fs::recursive_directory_iterator(
             root_, fs::directory_options::skip_permission_denied)) {
      const std::string path = entry.path();
      const std::string copy = to + path.substr(root_.size());
      if (entry.is_directory()) {
        fs::create_directories(copy);
        continue;
      }
      const auto synced = synced_.find(path);
      const std::string before = synced == synced_.end() ? "" : synced->second;
      std::string content = before;
      if (entry.path().extension() == ".log" && random_() % 2 == 0) {
        content = WithHole(before, ReadWholeFile(path).value_or(before));
      } else if (random_() % 2 == 0) {
        // Some of what came after got through as well: up to here, and no hole in it.
        const std::string now = ReadWholeFile(path).value_or(before);
        if (now.size() >= before.size()) {
          content = now.substr(0, before.size() + random_() % (now.size() - before.size() + 1));
        }
      } else if (synced == synced_.end() && random_() % 2 == 0) {
        continue;  // Not even its name.
      }
      fs::create_directories(fs::path(copy).parent_path());
      std::ofstream(copy, std::ios::binary) << content;
    }
  }

  // All of `now` but for one page of what came after `before`.
  std::string WithHole(const std::string& before, std::string now) {
    if (now.size() <= before.size()) return before;
    const size_t first = before.size() / kPageSize, last = (now.size() - 1) / kPageSize;
    const size_t page = first + random_() % (last - first + 1);
    const size_t begin = std::max(page * kPageSize, before.size());
    const size_t end = std::min((page + 1) * kPageSize, now.size());
    std::fill(now.begin() + begin, now.begin() + end, '\0');
    ++holes_;
    return now;
  }

  const std::string root_, pictures_;
  const double share_;
  int holes_ = 0;
  std::mutex mutex_;
  std::mt19937_64 random_;
  std::map<std::string, std::string> synced_;
  std::vector<Picture> taken_;
};

std::atomic<Disk*> the_disk{nullptr};

}  // namespace
}  // namespace incr

// glibc's, replaced.
extern "C" {
int fdatasync(int fd) {
  if (incr::Disk* disk = incr::the_disk.load()) disk->BeforeSync();
  const int result = ::syscall(SYS_fdatasync, fd);
  if (incr::Disk* disk = incr::the_disk.load(); disk && result == 0) disk->Synced(fd);
  return result;
}
int fsync(int fd) {
  if (incr::Disk* disk = incr::the_disk.load()) disk->BeforeSync();
  const int result = ::syscall(SYS_fsync, fd);
  if (incr::Disk* disk = incr::the_disk.load(); disk && result == 0) disk->Synced(fd);
  return result;
}
int rename(const char* from, const char* to) noexcept {
  const int result = ::syscall(SYS_rename, from, to);
  if (incr::Disk* disk = incr::the_disk.load(); disk && result == 0) disk->Renamed(from, to);
  return result;
}
int link(const char* from, const char* to) noexcept {
  const int result = ::syscall(SYS_link, from, to);
  if (incr::Disk* disk = incr::the_disk.load(); disk && result == 0) disk->Linked(from, to);
  return result;
}
int unlink(const char* path) noexcept {
  const int result = ::syscall(SYS_unlink, path);
  if (incr::Disk* disk = incr::the_disk.load(); disk && result == 0) disk->Removed(path);
  return result;
}
}

namespace incr {
namespace {

constexpr uint64_t kEpochs = 30;

StoreOptions Options() {
  StoreOptions options;
  options.create_if_missing = true;
  options.full_table_every = 6;
  options.pack_bytes = 300'000;
  options.workers = 2;
  return options;
}

std::vector<std::pair<uint64_t, uint64_t>> WritesOf(uint64_t epoch) {
  std::mt19937_64 random(epoch);
  std::vector<std::pair<uint64_t, uint64_t>> writes;
  for (int n = 0; n < 30; ++n) writes.emplace_back(random() % 100, 1 + random() % 700);
  return writes;
}

ModelTable ModelAt(uint64_t epoch) {
  ModelTable model;
  for (uint64_t e = 1; e <= epoch; ++e) {
    for (const auto& [page, seed] : WritesOf(e)) model[{0, page}] = seed;
  }
  return model;
}

absl::Status WriteEpoch(Store& store, uint64_t epoch) {
  INCR_ASSIGN_OR_RETURN(auto writer, store.BeginEpoch("job", epoch - 1));
  for (const auto& [page, seed] : WritesOf(epoch)) {
    INCR_RETURN_IF_ERROR(writer->AddPages(0, {page, 1}, MakePage(seed).data()));
  }
  return writer->Commit({}, std::string(30'000, char('a' + epoch % 26))).status();
}

class PowerCutTest : public ::testing::TestWithParam<int> {
 protected:
  static void TearDownTestSuite() {
    EXPECT_GT(holes_, 0) << "no picture had what it is about";
    EXPECT_GT(deleted_, 0);
  }
  static int holes_;
  static uint64_t deleted_;
};
int PowerCutTest::holes_ = 0;
uint64_t PowerCutTest::deleted_ = 0;

TEST_P(PowerCutTest, EveryAcknowledgedEpochSurvives) {
  TempDirectory directory;
  const std::string path = directory / "store", pictures = directory / "pictures";
  Disk disk(path, pictures, 0.2, GetParam());
  the_disk = &disk;
  // Reopened in between: recovery and flushing are moments like any other.
  for (uint64_t epoch = 1; epoch <= kEpochs;) {
    auto store = Store::Open(path, Options());
    ASSERT_TRUE(store.ok()) << store.status();
    for (int n = 0; n < 15; ++n, ++epoch) {
      const absl::Status status = WriteEpoch(**store, epoch);
      ASSERT_TRUE(status.ok()) << status;
      disk.acknowledged = epoch;
      if (epoch % 5 != 0) continue;
      GcOptions gc;
      gc.policy.keep_last = 9;
      gc.recompress_zstd = epoch % 2 == 0;
      const auto collected = (*store)->CollectGarbage(gc);
      ASSERT_TRUE(collected.ok()) << collected.status();
      deleted_ += collected->packs_deleted;
    }
  }
  the_disk = nullptr;
  int checked = 0;
  for (const Disk::Picture& picture : disk.pictures()) {
    SCOPED_TRACE(picture.directory + " after epoch " + std::to_string(picture.acknowledged));
    auto store = Store::Open(picture.directory, Options());
    ASSERT_TRUE(store.ok()) << store.status();
    auto records = (*store)->ListEpochs("job");
    const uint64_t head = records.ok() ? records->back().epoch() : 0;
    ASSERT_GE(head, picture.acknowledged) << "an acknowledged epoch is lost";
    ASSERT_LE(head, picture.acknowledged + 1);
    for (uint64_t epoch = head; epoch > 0 && epoch + 8 > head; --epoch) {
      ASSERT_EQ(Difference(**store, "job", epoch, ModelAt(epoch)), "") << epoch;
    }
    // What goes on from there must not lean on anything that was lost.
    for (uint64_t epoch = head + 1; epoch < head + 4; ++epoch) {
      const absl::Status status = WriteEpoch(**store, epoch);
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(Difference(**store, "job", epoch, ModelAt(epoch)), "") << epoch;
    }
    ++checked;
  }
  EXPECT_GT(checked, 5);
  holes_ += disk.holes();
}

INSTANTIATE_TEST_SUITE_P(Seeds, PowerCutTest, ::testing::Range(1, 7));

}  // namespace
}  // namespace incr
