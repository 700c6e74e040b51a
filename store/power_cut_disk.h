// power_cut_disk.h — for the store's tests: what a disk holds after the power has failed, behind the seam of
// file_io.h.
//
//   a file       what was in it when it was last synced, and of what was written since nothing, a part, or pieces of 512
//                bytes in any order
//   a name       changes of names (create, rename, link, unlink, mkdir, rmdir) happen in order, as in a journal, and are
//                sure once a directory that they touch is synced; syncing a file makes its name no surer
//
// Thread-safe.
#ifndef INCR_CKPT_STORE_POWER_CUT_DISK_H_
#define INCR_CKPT_STORE_POWER_CUT_DISK_H_

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "store/file_io.h"

namespace incr {

class PowerCutDisk : public FileFaults {
 public:
  enum class Loss { kAll, kEnd, kAnyPieces };  // of what was not synced

  // What is below `root` now is durable. `before_change` is called before every call that changes something; it may
  // take pictures.
  PowerCutDisk(std::string root, uint64_t seed, std::function<void(PowerCutDisk&)> before_change)
      : root_(std::move(root)), random_(seed), before_change_(std::move(before_change)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
      if (entry.is_directory()) {
        base_.directories.insert(entry.path());
      } else {
        auto file = std::make_shared<File>();
        file->synced = file->now = Read(entry.path());
        base_.files[entry.path()] = std::move(file);
      }
    }
    live_ = base_;
  }

  // Below `to`, which must not exist. Only from `before_change`.
  void TakePicture(const std::string& to, Loss loss) {
    Names names = base_;
    const size_t unsure = changes_.size() - sure_;
    const size_t kept = loss == Loss::kAll ? 0 : random_() % (unsure + 1);
    for (size_t i = 0; i < sure_ + kept; ++i) Apply(changes_[i], &names);
    std::filesystem::create_directories(to);
    for (const std::string& directory : names.directories) MakeDirectory(to + directory.substr(root_.size()));
    for (const auto& [path, file] : names.files) {
      const std::string copy = to + path.substr(root_.size());
      if (!std::filesystem::exists(std::filesystem::path(copy).parent_path())) continue;
      std::ofstream(copy, std::ios::binary) << Remains(*file, loss);
      ::chmod(copy.c_str(), 0600);
    }
  }

  Verdict Before(const FileCall& call) override {
    if (call.op == FileOp::kOpen || call.op == FileOp::kRead) return {};
    std::lock_guard lock(mutex_);
    const std::string path = Clean(call.path);
    if (path.compare(0, root_.size(), root_) != 0) return {};
    Refresh();
    before_change_(*this);
    if (call.op == FileOp::kSync) {
      if (const auto file = live_.files.find(path); file != live_.files.end()) {
        syncing_[path] = {file->second->now, file->second->writes.size()};
      }
    }
    return {};
  }

  void After(const FileCall& call) override {
    std::lock_guard lock(mutex_);
    const std::string path = Clean(call.path);
    if (path.compare(0, root_.size(), root_) != 0) return;
    const auto found = live_.files.find(path);
    File* const file = found == live_.files.end() ? nullptr : found->second.get();
    switch (call.op) {
      case FileOp::kOpen:
      case FileOp::kRead: return;
      case FileOp::kCreate:
        if (file == nullptr) {
          Change({FileOp::kCreate, path, "", std::make_shared<File>()});
        } else if (std::filesystem::file_size(path) == 0) {
          file->writes.push_back({0, 0, true});
        }
        return;
      case FileOp::kWrite:
        if (file != nullptr) file->writes.push_back({call.offset, call.bytes, false});
        return;
      case FileOp::kTruncate:
      case FileOp::kAllocate:
        if (file != nullptr) file->writes.push_back({call.offset, 0, true});
        return;
      case FileOp::kSync: return Synced(path, file);
      case FileOp::kSyncDirectory: return SyncedDirectory(path);
      case FileOp::kRename:
      case FileOp::kLink: return Change({call.op, path, Clean(*call.to), nullptr});
      case FileOp::kUnlink:
      case FileOp::kMakeDirectory:
      case FileOp::kRemoveDirectory: return Change({call.op, path, "", nullptr});
    }
  }

 private:
  struct Write {
    uint64_t offset = 0, bytes = 0;
    bool resize = false;  // to `offset` bytes
  };
  struct File {
    std::string synced, now;
    std::vector<Write> writes;  // since `synced`
  };
  struct Names {
    std::map<std::string, std::shared_ptr<File>> files;
    std::set<std::string> directories;
  };
  struct NameChange {
    FileOp op;
    std::string path, to;
    std::shared_ptr<File> file;  // created
  };

  static std::string Read(const std::string& path) { return ReadWholeFile(path).value_or(""); }
  static std::string Clean(std::string path) {
    for (size_t at; (at = path.find("//")) != std::string::npos;) path.erase(at, 1);
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    return path;
  }
  static std::string DirectoryOf(const std::string& path) { return path.substr(0, path.rfind('/')); }
  static void MakeDirectory(const std::string& path) {
    std::filesystem::create_directories(path);
    ::chmod(path.c_str(), 0700);
  }

  // What files hold now, as long as they still have a name to read them by.
  void Refresh() {
    for (auto& [path, file] : live_.files) {
      if (!file->writes.empty()) file->now = Read(path);
    }
  }

  void Change(NameChange change) {
    Apply(change, &live_);
    changes_.push_back(std::move(change));
  }

  static void Apply(const NameChange& change, Names* names) {
    switch (change.op) {
      case FileOp::kCreate: names->files[change.path] = change.file; return;
      case FileOp::kUnlink: names->files.erase(change.path); return;
      case FileOp::kMakeDirectory: names->directories.insert(change.path); return;
      case FileOp::kRemoveDirectory: names->directories.erase(change.path); return;
      case FileOp::kLink:
        if (names->files.count(change.path)) names->files[change.to] = names->files[change.path];
        return;
      case FileOp::kRename: return Rename(change, names);
      default: return;
    }
  }
  static void Rename(const NameChange& change, Names* names) {
    if (auto node = names->files.extract(change.path); !node.empty()) {
      names->files[change.to] = node.mapped();
      return;
    }
    // A directory takes all below it along.
    const auto moved = [&](const std::string& path) { return change.to + path.substr(change.path.size()); };
    const auto below = [&](const std::string& path) {
      return path == change.path || path.compare(0, change.path.size() + 1, change.path + "/") == 0;
    };
    Names after;
    for (const auto& [path, file] : names->files) after.files[below(path) ? moved(path) : path] = file;
    for (const std::string& path : names->directories) after.directories.insert(below(path) ? moved(path) : path);
    *names = std::move(after);
  }

  void Synced(const std::string& path, File* file) {
    const auto found = syncing_.find(path);
    if (file == nullptr || found == syncing_.end()) return;
    file->synced = std::move(found->second.first);
    file->writes.erase(file->writes.begin(), file->writes.begin() + std::min(found->second.second, file->writes.size()));
    syncing_.erase(found);
  }
  void SyncedDirectory(const std::string& path) {
    for (size_t i = changes_.size(); i > sure_; --i) {
      const NameChange& change = changes_[i - 1];
      if (DirectoryOf(change.path) == path || (!change.to.empty() && DirectoryOf(change.to) == path)) {
        sure_ = i;
        return;
      }
    }
  }

  std::string Remains(const File& file, Loss loss) {
    std::string bytes = file.synced;
    if (loss == Loss::kAll) return bytes;
    size_t last = file.writes.size();
    if (loss == Loss::kEnd) last = random_() % (last + 1);
    for (size_t i = 0; i < last; ++i) {
      const Write& write = file.writes[i];
      if (loss == Loss::kAnyPieces && random_() % 3 == 0) continue;
      if (write.resize) {
        bytes.resize(write.offset);
        continue;
      }
      for (uint64_t at = write.offset; at < write.offset + write.bytes;) {
        const uint64_t end = std::min(write.offset + write.bytes, (at / 512 + 1) * 512);
        const bool lost = loss == Loss::kAnyPieces && random_() % 4 == 0;
        if (!lost && end <= file.now.size()) {
          if (bytes.size() < end) bytes.resize(end);
          std::copy(file.now.begin() + at, file.now.begin() + end, bytes.begin() + at);
        }
        at = end;
      }
    }
    return bytes;
  }

  const std::string root_;
  std::mutex mutex_;
  std::mt19937_64 random_;
  const std::function<void(PowerCutDisk&)> before_change_;
  Names base_, live_;
  std::vector<NameChange> changes_;  // since the beginning
  size_t sure_ = 0;                  // so many of them are durable
  std::map<std::string, std::pair<std::string, size_t>> syncing_;  // content and writes when the sync began
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_POWER_CUT_DISK_H_
