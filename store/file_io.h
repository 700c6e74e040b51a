// file_io.h — every file operation of the store goes through here (RocksDB's through rocks_files.h, to the same
// effect): no symbolic link is followed, no file is readable for others, and tests can put a faulty disk in front.
//
//   FileIo{}         the operating system
//   FileIo{faults}   each operation is first put to `faults`
//
// EINTR and short counts, of the kernel or of `faults`, are dealt with here. A value; thread-safe.
#ifndef INCR_CKPT_STORE_FILE_IO_H_
#define INCR_CKPT_STORE_FILE_IO_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"

namespace incr {

enum class FileOp {
  kOpen,
  kCreate,  // open that may create
  kRead,
  kWrite,
  kSync,
  kTruncate,
  kAllocate,
  kRename,
  kLink,
  kUnlink,
  kMakeDirectory,
  kRemoveDirectory,
  kSyncDirectory,
};

struct FileCall {
  FileOp op;
  const std::string& path;
  uint64_t offset = 0;
  size_t bytes = 0;               // to be read or written
  const std::string* to = nullptr;  // rename, link
};

// A disk that is not what it should be; for tests. Thread-safe.
class FileFaults {
 public:
  struct Verdict {
    int error = 0;              // the call fails with this errno...
    size_t bytes = SIZE_MAX;    // ...after so many bytes, if it writes; with no error: that is all it does this time
    bool flip_bits = false;     // what was read is not what is there
  };
  virtual ~FileFaults() = default;
  virtual Verdict Before(const FileCall& call) = 0;
  // It was done, whole or in part.
  virtual void After(const FileCall& call) { (void)call; }
  // Damages what a call with flip_bits read.
  static void FlipBits(void* data, size_t bytes);
};

class FileIo {
 public:
  explicit FileIo(FileFaults* faults = nullptr) : faults_(faults) {}
  FileFaults* faults() const { return faults_; }

  // open(2) with O_CLOEXEC and O_NOFOLLOW. kFailedPrecondition: `path` is a symbolic link.
  absl::StatusOr<ScopedFd> Open(const std::string& path, int flags, mode_t mode = 0) const;
  // As in base/file.h; `path` is the one that was opened.
  absl::StatusOr<size_t> PreadUpTo(int fd, void* data, size_t size, uint64_t offset,
                                   const std::string& path) const;
  absl::Status PreadExactly(int fd, void* data, size_t size, uint64_t offset,
                            const std::string& path) const;
  absl::Status PwriteExactly(int fd, const void* data, size_t size, uint64_t offset,
                             const std::string& path) const;
  // fdatasync
  absl::Status Sync(int fd, const std::string& path) const;
  absl::Status SyncDirectory(const std::string& path) const;
  absl::Status Truncate(int fd, uint64_t size, const std::string& path) const;
  // Reserves the file's first `size` bytes; false where that does not work.
  bool Allocate(int fd, uint64_t size, const std::string& path) const;
  absl::Status Unlink(const std::string& path) const;
  absl::Status Rename(const std::string& from, const std::string& to) const;
  // A second name for a regular file.
  absl::Status Link(const std::string& from, const std::string& to) const;
  // With all that is in it; none is no error.
  absl::Status RemoveTree(const std::string& path) const;
  // Mode 0700, whatever the umask. There already is no error, unless it is no directory.
  absl::Status MakeDirectory(const std::string& path) const;

  // From and to where `fd` stands; a pipe will do. The first reads once: 0 at the end.
  absl::StatusOr<size_t> ReadSome(int fd, void* data, size_t size, const std::string& path) const;
  absl::Status WriteAll(int fd, const void* data, size_t size, const std::string& path) const;

  // A small regular file.
  absl::StatusOr<std::string> ReadWhole(const std::string& path, size_t max_bytes) const;
  // Durable and atomic, mode 0600.
  absl::Status WriteDurably(const std::string& path, absl::string_view content) const;

 private:
  // The verdict on `call`: OK to go on, or the error as a Status that reads like the kernel's.
  absl::Status Ask(const FileCall& call, absl::string_view operation) const;
  void Done(const FileCall& call) const {
    if (faults_ != nullptr) faults_->After(call);
  }

  FileFaults* faults_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_FILE_IO_H_
