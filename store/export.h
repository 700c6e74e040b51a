// export.h — epochs of one job as one self-contained file (export_format.h).
//
// Memory: 24 bytes for each page and one table, besides what reading the pages takes.
#ifndef INCR_CKPT_STORE_EXPORT_H_
#define INCR_CKPT_STORE_EXPORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "store/file_io.h"
#include "store/store.h"

namespace incr {

struct ExportResult {
  uint64_t pages = 0;  // bodies, each once
  uint64_t bytes = 0;  // of the file
};

// Writes to `fd`, which `name` names in errors. `epochs`: ascending, each once. A parent that is not among them
// is replaced by the nearest ancestor that is. `progress` (may be null) hears of pages done, of how many.
absl::StatusOr<ExportResult> ExportEpochs(const StoreReader& store, const std::string& job,
                                          const std::vector<uint64_t>& epochs, int fd, const std::string& name,
                                          const std::function<void(uint64_t pages, uint64_t of)>& progress,
                                          FileIo io = FileIo());

// The file that an export goes to: it appears under its name whole and durable, or not at all, mode 0600. What is no
// regular file (a pipe, a device) is written as it is. Not thread-safe.
class ExportFile {
 public:
  static absl::StatusOr<ExportFile> Open(const std::string& path, FileIo io = FileIo());
  ExportFile(ExportFile&& other) noexcept;
  ~ExportFile();  // Unfinished: it goes.
  int fd() const { return fd_.get(); }
  const std::string& name() const { return temporary_.empty() ? path_ : temporary_; }
  absl::Status Finish();

 private:
  ExportFile(std::string path, FileIo io) : path_(std::move(path)), io_(io) {}
  std::string path_, temporary_;  // "": none, or it has its name
  FileIo io_;
  ScopedFd fd_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_EXPORT_H_
