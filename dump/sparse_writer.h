// sparse_writer.h — writes a file from front to back, with holes for zeros where the file can have them.
//
// Not thread-safe.
#ifndef INCR_CKPT_DUMP_SPARSE_WRITER_H_
#define INCR_CKPT_DUMP_SPARSE_WRITER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace incr {

class SparseWriter {
 public:
  // `fd`, which the caller keeps, is an empty file or anything that can be written; `name` is for errors.
  SparseWriter(int fd, std::string name);

  absl::Status Append(absl::string_view bytes);
  absl::Status AppendZeros(uint64_t count);
  // Zeros up to that offset. REQUIRES: it is not behind us.
  absl::Status PadTo(uint64_t offset) { return AppendZeros(offset - offset_); }
  // Gives the file its length, if it ends in zeros.
  absl::Status Finish();

  uint64_t offset() const { return offset_; }
  uint64_t written() const { return written_; }  // without holes

 private:
  const int fd_;
  const std::string name_;
  bool holes_;  // a regular file
  uint64_t offset_ = 0, written_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_DUMP_SPARSE_WRITER_H_
