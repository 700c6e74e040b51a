#include "cli/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "base/status.h"

namespace incr {

absl::StatusOr<OutputFile> OutputFile::Open(const std::string& path) {
  OutputFile output;
  output.name_ = path;
  if (path != "-") {
    INCR_ASSIGN_OR_RETURN(ExportFile file, ExportFile::Open(path));
    output.name_ = file.name();
    output.file_.emplace(std::move(file));
    return output;
  }
  if (::isatty(STDOUT_FILENO)) {
    return absl::InvalidArgumentError("-o -: stdout is a terminal; give a file, or a pipe");
  }
  output.pipe_ = ScopedFd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  return output;
}

}  // namespace incr
