// core_file.h — an ELF core of an epoch, as the kernel would have written it at that moment, for gdb and its kin.
//
// A core leaves out, as the kernel's do by default, what a debugger reads from the files that NT_FILE names: pages of
// private file mappings that the process has not changed (but for an ELF file's first page, which has its build id).
// Long stretches of zeros take no room; the file is sparse besides.
#ifndef INCR_CKPT_DUMP_CORE_FILE_H_
#define INCR_CKPT_DUMP_CORE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "dump/epoch_memory.h"

namespace incr {

struct CoreResult {
  uint64_t bytes = 0;          // the file's length
  uint64_t bytes_written = 0;  // without its holes
  uint64_t threads = 0, segments = 0;
  std::vector<std::string> warnings;  // memory that a debugger will not see, or not rightly: a sentence each
};

// Writes it from front to back, so `fd` may be a pipe; `name` is for errors. `progress`: bytes so far, and all.
absl::StatusOr<CoreResult> WriteCore(const EpochMemory& memory, int fd, const std::string& name,
                                     absl::FunctionRef<void(uint64_t, uint64_t)> progress);

}  // namespace incr

#endif  // INCR_CKPT_DUMP_CORE_FILE_H_
