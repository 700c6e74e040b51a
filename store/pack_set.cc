#include "store/pack_set.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

// Writers kept for later epochs: each holds 8 MiB of buffers.
constexpr size_t kIdleWriters = 2;

absl::StatusOr<uint64_t> FileSize(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return ErrnoStatus(absl::StrCat("stat(", path, ")"));
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  return static_cast<uint64_t>(info.st_size);
}

absl::StatusOr<PackFile> OpenToAppend(const std::string& path, uint32_t pack, uint64_t tag,
                                      uint64_t end) {
  absl::StatusOr<ScopedFd> fd = OpenFile(path, O_RDWR | O_DIRECT);
  if (!fd.ok()) fd = OpenFile(path, O_RDWR);
  INCR_RETURN_IF_ERROR(fd.status());
  INCR_ASSIGN_OR_RETURN(ScopedFd buffered, OpenFile(path, O_RDONLY));
  uint8_t header[kPackHeaderBytes];
  INCR_RETURN_IF_ERROR(PreadExactly(buffered.get(), header, sizeof header, 0, path));
  INCR_RETURN_IF_ERROR(CheckPackHeader(header, pack, tag));
  PackFile file;
  file.id = pack;
  file.path = path;
  file.fd = *std::move(fd);
  file.base = file.end = file.allocated = end;
  return file;
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> ListPacks(const std::string& directory) {
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) return ErrnoStatus(absl::StrCat("opendir(", directory, ")"));
  std::vector<uint32_t> packs;
  errno = 0;
  while (dirent* entry = ::readdir(dir)) {
    if (const uint32_t pack = PackIdOf(entry->d_name); pack != 0) packs.push_back(pack);
    errno = 0;
  }
  const int error = errno;
  ::closedir(dir);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("readdir(", directory, ")"));
  std::sort(packs.begin(), packs.end());
  return packs;
}

absl::StatusOr<std::unique_ptr<PackSet>> PackSet::Recover(
    const std::string& directory, uint64_t store_tag, uint64_t pack_bytes,
    const std::map<uint32_t, uint64_t>& committed) {
  std::unique_ptr<PackSet> set(new PackSet);
  set->settings_ = {directory, store_tag, pack_bytes, [s = set.get()] { return s->NewPackId(); }};
  INCR_ASSIGN_OR_RETURN(std::vector<uint32_t> packs, ListPacks(directory));
  if (!committed.empty()) set->last_pack_ = committed.rbegin()->first;
  for (const uint32_t pack : packs) {
    set->last_pack_ = std::max(set->last_pack_, pack);
    const std::string path = absl::StrCat(directory, "/", PackName(pack));
    INCR_ASSIGN_OR_RETURN(const uint64_t size, FileSize(path));
    const auto known = committed.find(pack);
    if (known == committed.end()) {
      if (::unlink(path.c_str()) != 0) return ErrnoStatus(absl::StrCat("unlink(", path, ")"));
      continue;
    }
    set->good_bytes_[pack] = std::min(size, known->second);
    if (size > known->second && ::truncate(path.c_str(), known->second) != 0) {
      return ErrnoStatus(absl::StrCat("truncate(", path, ")"));
    }
    if (size >= known->second && known->second < pack_bytes) {
      absl::StatusOr<PackFile> file = OpenToAppend(path, pack, store_tag, known->second);
      if (!file.ok()) continue;  // Damaged or read-only: a new pack will do.
      set->open_ended_.push_back(*std::move(file));
      if (set->open_ended_.size() > 4) set->open_ended_.erase(set->open_ended_.begin());
    }
  }
  return set;
}

uint32_t PackSet::NewPackId() {
  absl::MutexLock lock(&mutex_);
  return ++last_pack_;
}

absl::StatusOr<std::unique_ptr<PackWriter>> PackSet::CheckOut() {
  {
    absl::MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<PackWriter> writer = std::move(idle_.back());
      idle_.pop_back();
      return writer;
    }
  }
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<PackWriter> writer, PackWriter::Create(settings_));
  absl::MutexLock lock(&mutex_);
  if (!open_ended_.empty()) {
    writer->Adopt(std::move(open_ended_.back()));
    open_ended_.pop_back();
  }
  return writer;
}

void PackSet::CheckIn(std::unique_ptr<PackWriter> writer) {
  absl::MutexLock lock(&mutex_);
  if (idle_.size() < kIdleWriters) {
    idle_.push_back(std::move(writer));
  } else if (std::optional<PackFile> pack = writer->GiveUpPack(); pack.has_value()) {
    open_ended_.push_back(*std::move(pack));
  }
}

void PackSet::Committed(const std::vector<PackLength>& lengths) {
  absl::MutexLock lock(&mutex_);
  for (const PackLength& length : lengths) good_bytes_[length.pack] = length.bytes;
}

bool PackSet::IsIntact(const PageLocation& location) const {
  absl::MutexLock lock(&mutex_);
  const auto good = good_bytes_.find(location.pack);
  return good != good_bytes_.end() && location.end() <= good->second;
}

}  // namespace incr
