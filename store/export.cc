#include "store/export.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "store/export_format.h"

namespace incr {
namespace {

// Ids of all bodies, and the number that each got in the file.
class BodyNumbers {
 public:
  void Want(const PageTable& table) {
    for (const PageTableEntry& entry : table) {
      if (!entry.id.is_zero_page()) ids_.push_back(entry.id);
    }
    std::sort(ids_.begin(), ids_.end());
    ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
  }
  const std::vector<PageId>& ids() const { return ids_; }
  void Number(size_t i) {
    numbers_.resize(ids_.size());
    numbers_[i] = ++last_;
  }
  void Replace(PageTable* table) const {
    for (PageTableEntry& entry : *table) {
      if (entry.id.is_zero_page()) continue;
      entry.id = {0, numbers_[std::lower_bound(ids_.begin(), ids_.end(), entry.id) - ids_.begin()]};
    }
  }

 private:
  std::vector<PageId> ids_;  // ascending
  std::vector<uint64_t> numbers_;
  uint64_t last_ = 0;
};

// The nearest ancestor of `record` that is among `epochs`; 0: none.
absl::StatusOr<uint64_t> NearestAncestor(const StoreReader& store, const pb::EpochRecord& record,
                                         const std::vector<uint64_t>& epochs) {
  uint64_t parent = record.parent();
  while (parent != 0 && !std::binary_search(epochs.begin(), epochs.end(), parent)) {
    const absl::StatusOr<pb::EpochRecord> next = store.GetEpoch(record.job(), parent);
    if (absl::IsNotFound(next.status())) return 0;  // Collected.
    INCR_RETURN_IF_ERROR(next.status());
    parent = next->parent();
  }
  return parent;
}

}  // namespace

absl::StatusOr<ExportResult> ExportEpochs(const StoreReader& store, const std::string& job,
                                          const std::vector<uint64_t>& epochs, int fd, const std::string& name,
                                          const std::function<void(uint64_t pages, uint64_t of)>& progress,
                                          FileIo io) {
  BodyNumbers bodies;
  for (const uint64_t epoch : epochs) {
    INCR_ASSIGN_OR_RETURN(const PageTable table, store.LoadPageTable(job, epoch));
    bodies.Want(table);
  }
  ExportWriter writer([&](absl::string_view bytes) { return io.WriteAll(fd, bytes.data(), bytes.size(), name); });
  INCR_RETURN_IF_ERROR(writer.Begin({bodies.ids().size(), epochs.size(), job}));
  ExportResult result;
  INCR_RETURN_IF_ERROR(store.ReadPages(bodies.ids(), [&](size_t i, const uint8_t* page) {
    bodies.Number(i);
    if (progress) progress(++result.pages, bodies.ids().size());
    return writer.AddBody(page);
  }));
  for (const uint64_t epoch : epochs) {
    INCR_ASSIGN_OR_RETURN(pb::EpochRecord record, store.GetEpoch(job, epoch));
    INCR_ASSIGN_OR_RETURN(const uint64_t parent, NearestAncestor(store, record, epochs));
    record.set_parent(parent);
    INCR_ASSIGN_OR_RETURN(PageTable table, store.LoadPageTable(job, epoch));
    bodies.Replace(&table);
    INCR_ASSIGN_OR_RETURN(const std::string image, store.ReadImage(job, epoch));
    INCR_RETURN_IF_ERROR(writer.AddEpoch(record, table, image));
  }
  INCR_RETURN_IF_ERROR(writer.End());
  result.pages = bodies.ids().size();
  result.bytes = writer.bytes_written();
  return result;
}

absl::StatusOr<ExportFile> ExportFile::Open(const std::string& path, FileIo io) {
  ExportFile file(path, io);
  struct stat info;
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    // /dev/stdout and its like are links: this one is no file of a store.
    INCR_ASSIGN_OR_RETURN(file.fd_, OpenFile(path, O_WRONLY));
    return file;
  }
  for (int n = 0;; ++n) {
    std::string temporary = absl::StrCat(path, ".", ::getpid(), n == 0 ? "" : absl::StrCat(".", n), ".tmp");
    absl::StatusOr<ScopedFd> fd = io.Open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
    // A process of this number was killed here before.
    if (absl::IsAlreadyExists(fd.status()) && n < 100) continue;
    INCR_RETURN_IF_ERROR(fd.status());
    file.fd_ = *std::move(fd);
    file.temporary_ = std::move(temporary);
    return file;
  }
}

ExportFile::ExportFile(ExportFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, "")),
      io_(other.io_),
      fd_(std::move(other.fd_)) {}

ExportFile::~ExportFile() {
  if (!temporary_.empty()) (void)io_.Unlink(temporary_);
}

absl::Status ExportFile::Finish() {
  if (temporary_.empty()) return absl::OkStatus();
  INCR_RETURN_IF_ERROR(io_.Sync(fd_.get(), temporary_));
  INCR_RETURN_IF_ERROR(io_.Rename(temporary_, path_));
  temporary_.clear();
  const size_t slash = path_.rfind('/');
  return io_.SyncDirectory(slash == std::string::npos ? "." : path_.substr(0, slash + 1));
}

}  // namespace incr
