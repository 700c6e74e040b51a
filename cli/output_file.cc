#include "cli/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {

absl::StatusOr<OutputFile> OutputFile::Open(const std::string& path) {
  OutputFile output;
  output.path_ = path;
  if (path == "-") {
    if (::isatty(STDOUT_FILENO)) {
      return absl::InvalidArgumentError("-o -: stdout is a terminal; give a file, or a pipe");
    }
    output.fd_ = ScopedFd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    return output;
  }
  struct stat info;
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    INCR_ASSIGN_OR_RETURN(output.fd_, OpenFile(path, O_WRONLY));
    return output;
  }
  output.temporary_ = absl::StrCat(path, ".", ::getpid(), ".tmp");
  absl::StatusOr<ScopedFd> fd = OpenFile(output.temporary_, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!fd.ok()) output.temporary_.clear();  // Not ours to remove.
  INCR_RETURN_IF_ERROR(fd.status());
  output.fd_ = *std::move(fd);
  return output;
}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

absl::Status OutputFile::Finish() {
  if (temporary_.empty()) return absl::OkStatus();
  if (::fsync(fd_.get()) != 0) return ErrnoStatus(absl::StrCat("fsync(", temporary_, ")"));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return ErrnoStatus(absl::StrCat("rename(", path_, ")"));
  temporary_.clear();
  const size_t slash = path_.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "." : path_.substr(0, slash + 1));
}

}  // namespace incr
