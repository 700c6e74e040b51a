// output_file.h — where a command's file goes: `-o FILE`, which appears whole or not at all (ExportFile), or `-o -`.
#ifndef INCR_CKPT_CLI_OUTPUT_FILE_H_
#define INCR_CKPT_CLI_OUTPUT_FILE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "store/export.h"

namespace incr {

class OutputFile {
 public:
  // "-": stdout. kInvalidArgument: that is a terminal.
  static absl::StatusOr<OutputFile> Open(const std::string& path);

  int fd() const { return file_ ? file_->fd() : pipe_.get(); }
  // For messages.
  const std::string& name() const { return name_; }
  // Durable, and at its place. Without it nothing stays.
  absl::Status Finish() { return file_ ? file_->Finish() : absl::OkStatus(); }

 private:
  OutputFile() = default;
  std::optional<ExportFile> file_;
  ScopedFd pipe_;
  std::string name_;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_OUTPUT_FILE_H_
