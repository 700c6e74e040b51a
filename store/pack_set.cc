#include "store/pack_set.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

// Writers kept for later epochs: each holds 8 MiB of buffers.
constexpr size_t kIdleWriters = 2;

// Cuts the pack to `length` bytes if it is longer. Returns its size before.
absl::StatusOr<uint64_t> CutTo(FileIo io, const std::string& path, uint64_t length) {
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) return ErrnoStatus(absl::StrCat("lstat(", path, ")"));
  // O_NOFOLLOW once more below: the name may change hands in between.
  const auto not_regular = [&] {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  };
  if (!S_ISREG(info.st_mode)) return not_regular();
  if (static_cast<uint64_t>(info.st_size) <= length) return info.st_size;
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, io.Open(path, O_RDWR | O_NONBLOCK));
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("fstat(", path, ")"));
  if (!S_ISREG(info.st_mode)) return not_regular();
  const uint64_t size = info.st_size;
  if (size > length) INCR_RETURN_IF_ERROR(io.Truncate(fd.get(), length, path));
  return size;
}

absl::StatusOr<PackFile> OpenToAppend(FileIo io, const std::string& path, uint32_t pack,
                                      uint64_t tag, uint64_t end) {
  absl::StatusOr<ScopedFd> fd = io.Open(path, O_RDWR | O_DIRECT);
  if (!fd.ok()) fd = io.Open(path, O_RDWR);
  INCR_RETURN_IF_ERROR(fd.status());
  INCR_ASSIGN_OR_RETURN(ScopedFd buffered, io.Open(path, O_RDONLY));
  uint8_t header[kPackHeaderBytes];
  INCR_RETURN_IF_ERROR(io.PreadExactly(buffered.get(), header, sizeof header, 0, path));
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
    const std::map<uint32_t, uint64_t>& committed, FileIo io) {
  std::unique_ptr<PackSet> set(new PackSet);
  set->settings_ = {directory, store_tag, pack_bytes, [s = set.get()] { return s->NewPackId(); }, io};
  INCR_ASSIGN_OR_RETURN(std::vector<uint32_t> packs, ListPacks(directory));
  // Known packs only: a stray file must not use up the numbers.
  if (!committed.empty()) set->last_pack_ = committed.rbegin()->first;
  for (const uint32_t pack : packs) {
    const std::string path = absl::StrCat(directory, "/", PackName(pack));
    const auto known = committed.find(pack);
    if (known == committed.end()) {
      INCR_RETURN_IF_ERROR(io.Unlink(path));
      continue;
    }
    INCR_ASSIGN_OR_RETURN(const uint64_t size, CutTo(io, path, known->second));
    set->good_bytes_[pack] = std::min(size, known->second);
    if (size >= known->second && known->second < pack_bytes) {
      absl::StatusOr<PackFile> file = OpenToAppend(io, path, pack, store_tag, known->second);
      if (!file.ok()) continue;  // Damaged or read-only: a new pack will do.
      set->open_ended_.push_back(*std::move(file));
      if (set->open_ended_.size() > 4) set->open_ended_.erase(set->open_ended_.begin());
    }
  }
  return set;
}

absl::StatusOr<uint32_t> PackSet::NewPackId() {
  absl::MutexLock lock(&mutex_);
  if (last_pack_ == UINT32_MAX) {
    return absl::ResourceExhaustedError(
        absl::StrCat(settings_.directory, ": pack ", last_pack_, " is the last that has a number"));
  }
  return ++last_pack_;
}

absl::StatusOr<std::unique_ptr<PackWriter>> PackSet::CheckOut() {
  {
    absl::MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<PackWriter> writer = std::move(idle_.back());
      idle_.pop_back();
      busy_[writer.get()] = writer->current_pack();
      return writer;
    }
  }
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<PackWriter> writer, PackWriter::Create(settings_));
  absl::MutexLock lock(&mutex_);
  if (!open_ended_.empty()) {
    writer->Adopt(std::move(open_ended_.back()));
    open_ended_.pop_back();
  }
  busy_[writer.get()] = writer->current_pack();
  return writer;
}

void PackSet::CheckIn(std::unique_ptr<PackWriter> writer) {
  absl::MutexLock lock(&mutex_);
  busy_.erase(writer.get());
  if (retired_.count(writer->current_pack()) != 0) return;  // Closed for good.
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

bool PackSet::Retire(uint32_t pack, uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto good = good_bytes_.find(pack);
  if (good != good_bytes_.end() && good->second > bytes) return false;
  for (const auto& [writer, begun_with] : busy_) {
    if (begun_with == pack) return false;
  }
  retired_.insert(pack);
  std::erase_if(open_ended_, [&](const PackFile& file) { return file.id == pack; });
  std::erase_if(idle_, [&](const auto& writer) { return writer->current_pack() == pack; });
  return true;
}

std::vector<PackLength> PackSet::Forget(const std::vector<uint32_t>& packs) {
  absl::MutexLock lock(&mutex_);
  std::vector<PackLength> were;
  for (const uint32_t pack : packs) {
    const auto good = good_bytes_.find(pack);
    if (good == good_bytes_.end()) continue;
    were.push_back({pack, good->second});
    good_bytes_.erase(good);
  }
  return were;
}

bool PackSet::IsIntact(const PageLocation& location) const {
  absl::MutexLock lock(&mutex_);
  const auto good = good_bytes_.find(location.pack);
  return good != good_bytes_.end() && location.end() <= good->second;
}

}  // namespace incr
