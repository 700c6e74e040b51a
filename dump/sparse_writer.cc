#include "dump/sparse_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

bool IsEmptyFile(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 0 &&
         ::lseek(fd, 0, SEEK_CUR) == 0;
}

}  // namespace

SparseWriter::SparseWriter(int fd, std::string name) : fd_(fd), name_(std::move(name)), holes_(IsEmptyFile(fd)) {}

absl::Status SparseWriter::Append(absl::string_view bytes) {
  INCR_RETURN_IF_ERROR(holes_ ? PwriteExactly(fd_, bytes.data(), bytes.size(), offset_, name_)
                              : WriteExactly(fd_, bytes.data(), bytes.size(), name_));
  offset_ += bytes.size();
  written_ += bytes.size();
  return absl::OkStatus();
}

absl::Status SparseWriter::AppendZeros(uint64_t count) {
  static constexpr char kZeros[65536] = {};
  if (holes_) {
    offset_ += count;
    return absl::OkStatus();
  }
  while (count > 0) {
    const size_t n = std::min<uint64_t>(count, sizeof kZeros);
    INCR_RETURN_IF_ERROR(Append({kZeros, n}));
    count -= n;
  }
  return absl::OkStatus();
}

absl::Status SparseWriter::Finish() {
  if (holes_ && ::ftruncate(fd_, static_cast<off_t>(offset_)) != 0) return ErrnoStatus(absl::StrCat("ftruncate(", name_, ")"));
  return absl::OkStatus();
}

}  // namespace incr
