// file.h — exact reads and writes, and whole small files. EINTR and short counts
// are handled here once. Every error names the operation and the path or `what`.
// Thread-safe.
#ifndef INCR_CKPT_BASE_FILE_H_
#define INCR_CKPT_BASE_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"

namespace incr {

// open(2) with O_CLOEXEC added.
absl::StatusOr<ScopedFd> OpenFile(const std::string& path, int flags, mode_t mode = 0);

// Reads until `size` bytes or the end; returns how many. The end is no error.
absl::StatusOr<size_t> PreadUpTo(int fd, void* data, size_t size, uint64_t offset,
                                 absl::string_view what);

// As PreadUpTo, but the end before `size` bytes is kOutOfRange.
absl::Status PreadExactly(int fd, void* data, size_t size, uint64_t offset, absl::string_view what);
absl::Status PwriteExactly(int fd, const void* data, size_t size, uint64_t offset,
                           absl::string_view what);
absl::Status WriteExactly(int fd, const void* data, size_t size, absl::string_view what);

// Whole file; works for /proc files, whose st_size is 0. kResourceExhausted above `max_bytes`.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, size_t max_bytes = 64u << 20);
absl::StatusOr<std::string> ReadWholeFd(int fd, absl::string_view what,
                                        size_t max_bytes = 64u << 20);

// Durable and atomic: writes `path`.tmp, fsyncs it, renames it, fsyncs the directory.
absl::Status WriteFileDurably(const std::string& path, absl::string_view content, mode_t mode);
absl::Status SyncDirectory(const std::string& path);

absl::StatusOr<std::string> ReadLink(const std::string& path);

}  // namespace incr

#endif  // INCR_CKPT_BASE_FILE_H_
