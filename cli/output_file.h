// output_file.h — where a command's file goes: `-o FILE` or `-o -`.
//
// A file (mode 0600) appears whole or not at all; what is no regular file (a pipe, a device) is written as it is.
#ifndef INCR_CKPT_CLI_OUTPUT_FILE_H_
#define INCR_CKPT_CLI_OUTPUT_FILE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"

namespace incr {

class OutputFile {
 public:
  // "-": stdout. kInvalidArgument: that is a terminal.
  static absl::StatusOr<OutputFile> Open(const std::string& path);
  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)),
        temporary_(std::exchange(other.temporary_, "")),
        fd_(std::move(other.fd_)) {}
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();  // Unless finished: nothing stays.

  int fd() const { return fd_.get(); }
  // Durable, and at its place.
  absl::Status Finish();

 private:
  OutputFile() = default;
  std::string path_, temporary_;
  ScopedFd fd_;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_OUTPUT_FILE_H_
