#include "store/rocks_files.h"

#include <rocksdb/file_system.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "store/table_file_check.h"

namespace incr {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

// As RocksDB's own files say it.
IOStatus Failed(int error, const std::string& path) {
  IOStatus status = error == ENOSPC ? IOStatus::NoSpace(path, std::strerror(error))
                                    : IOStatus::IOError(path, std::strerror(error));
  status.SetRetryable(error == ENOSPC);
  return status;
}

FileFaults::Verdict VerdictOn(FileFaults* faults, const FileCall& call) {
  FileFaults::Verdict verdict;
  do {
    verdict = faults->Before(call);
  } while (verdict.error == EINTR);
  return verdict;
}

template <typename Do>
IOStatus Asking(FileFaults* faults, const FileCall& call, Do operation) {
  if (faults == nullptr) return operation();
  if (const int error = VerdictOn(faults, call).error; error != 0) return Failed(error, call.path);
  IOStatus status = operation();
  if (status.ok()) faults->After(call);
  return status;
}

class FaultyWritable : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  // `size`: it is appended to from there on.
  FaultyWritable(std::unique_ptr<rocksdb::FSWritableFile> file, FileFaults* faults, std::string path,
                 uint64_t size)
      : FSWritableFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)), size_(size) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    const FileCall call{FileOp::kWrite, path_, size_, data.size()};
    const FileFaults::Verdict verdict = VerdictOn(faults_, call);
    // Torn: what got through got through.
    const size_t torn = verdict.bytes == SIZE_MAX ? 0 : std::min(verdict.bytes, data.size());
    const size_t n = verdict.error == 0 ? data.size() : torn;
    IOStatus status = n == 0 ? IOStatus::OK() : target()->Append(Slice(data.data(), n), options, debug);
    if (status.ok() && n > 0) {
      size_ += n;
      faults_->After(call);
    }
    return verdict.error == 0 ? status : Failed(verdict.error, path_);
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options, IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kTruncate, path_, size},
                  [&] {
                    IOStatus status = target()->Truncate(size, options, debug);
                    if (status.ok()) size_ = size;
                    return status;
                  });
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kSync, path_}, [&] { return target()->Sync(options, debug); });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kSync, path_}, [&] { return target()->Fsync(options, debug); });
  }

 private:
  FileFaults* const faults_;
  const std::string path_;
  uint64_t size_;
};

template <typename Base>
class FaultyReadable : public Base {
 public:
  template <typename File>
  FaultyReadable(std::unique_ptr<File> file, FileFaults* faults, std::string path)
      : Base(std::move(file)), faults_(faults), path_(std::move(path)) {}

 protected:
  template <typename Do>
  IOStatus Reading(uint64_t offset, size_t bytes, Slice* result, char* scratch, Do read) const {
    const FileFaults::Verdict verdict =
        VerdictOn(faults_, {FileOp::kRead, path_, offset, bytes});
    if (verdict.error != 0) return Failed(verdict.error, path_);
    IOStatus status = read();
    if (status.ok() && verdict.flip_bits && result->size() > 0) {
      if (result->data() != scratch) std::memcpy(scratch, result->data(), result->size());
      FileFaults::FlipBits(scratch, result->size());
      *result = Slice(scratch, result->size());
    }
    return status;
  }

 private:
  FileFaults* const faults_;
  const std::string path_;
};

class FaultySequential : public FaultyReadable<rocksdb::FSSequentialFileOwnerWrapper> {
 public:
  using FaultyReadable::FaultyReadable;
  IOStatus Read(size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* debug) override {
    return Reading(0, n, result, scratch,
                   [&] { return target()->Read(n, options, result, scratch, debug); });
  }
};

class FaultyRandom : public FaultyReadable<rocksdb::FSRandomAccessFileOwnerWrapper> {
 public:
  using FaultyReadable::FaultyReadable;
  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* debug) const override {
    return Reading(offset, n, result, scratch,
                   [&] { return target()->Read(offset, n, options, result, scratch, debug); });
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, size_t count, const IOOptions& options,
                     IODebugContext* debug) override {
    for (size_t i = 0; i < count; ++i) {
      rocksdb::FSReadRequest& request = requests[i];
      request.status =
          Read(request.offset, request.len, options, &request.result, request.scratch, debug);
    }
    return IOStatus::OK();
  }
};

class FaultyDirectory : public rocksdb::FSDirectoryWrapper {
 public:
  FaultyDirectory(std::unique_ptr<rocksdb::FSDirectory> directory, FileFaults* faults,
                  std::string path)
      : FSDirectoryWrapper(std::move(directory)), faults_(faults), path_(std::move(path)) {}
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kSyncDirectory, path_},
                  [&] { return FSDirectoryWrapper::Fsync(options, debug); });
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* debug,
                               const rocksdb::DirFsyncOptions& how) override {
    return Asking(faults_, {FileOp::kSyncDirectory, path_},
                  [&] { return FSDirectoryWrapper::FsyncWithDirOptions(options, debug, how); });
  }

 private:
  FileFaults* const faults_;
  const std::string path_;
};

class RocksFiles : public rocksdb::FileSystemWrapper {
 public:
  explicit RocksFiles(FileIo io)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), faults_(io.faults()) {}
  const char* Name() const override { return "incr-ckpt"; }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* debug) override {
    return Writable(path, result,
                    [&] { return target()->NewWritableFile(path, options, result, debug); });
  }
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              IODebugContext* debug) override {
    return Writable(path, result,
                    [&] { return target()->ReopenWritableFile(path, options, result, debug); });
  }
  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result,
                             IODebugContext* debug) override {
    IOStatus status = Asking(faults_, {FileOp::kOpen, path}, [&] {
      return target()->NewSequentialFile(path, options, result, debug);
    });
    if (status.ok() && faults_ != nullptr) {
      result->reset(new FaultySequential(std::move(*result), faults_, path));
    }
    return status;
  }
  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               IODebugContext* debug) override {
    IOStatus status = Asking(faults_, {FileOp::kOpen, path}, [&] {
      return target()->NewRandomAccessFile(path, options, result, debug);
    });
    if (status.ok() && faults_ != nullptr) {
      result->reset(new FaultyRandom(std::move(*result), faults_, path));
    }
    if (status.ok() && absl::EndsWith(path, ".sst")) status = CheckTable(path, options, **result, debug);
    if (!status.ok()) result->reset();
    return status;
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext* debug) override {
    IOStatus status = target()->NewDirectory(path, options, result, debug);
    if (status.ok() && faults_ != nullptr) {
      result->reset(new FaultyDirectory(std::move(*result), faults_, path));
    }
    return status;
  }
  IOStatus CreateDir(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kMakeDirectory, path},
                  [&] { return target()->CreateDir(path, options, debug); });
  }
  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions& options,
                              IODebugContext* debug) override {
    // RocksDB asks for its directory at every opening.
    struct stat info;
    if (::stat(path.c_str(), &info) == 0) return target()->CreateDirIfMissing(path, options, debug);
    return Asking(faults_, {FileOp::kMakeDirectory, path},
                  [&] { return target()->CreateDirIfMissing(path, options, debug); });
  }
  IOStatus DeleteDir(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kRemoveDirectory, path},
                  [&] { return target()->DeleteDir(path, options, debug); });
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options,
                      IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kUnlink, path},
                  [&] { return target()->DeleteFile(path, options, debug); });
  }
  IOStatus Truncate(const std::string& path, size_t size, const IOOptions& options,
                    IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kTruncate, path, size},
                  [&] { return target()->Truncate(path, size, options, debug); });
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kRename, from, 0, 0, &to},
                  [&] { return target()->RenameFile(from, to, options, debug); });
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* debug) override {
    return Asking(faults_, {FileOp::kLink, from, 0, 0, &to},
                  [&] { return target()->LinkFile(from, to, options, debug); });
  }
  IOStatus LockFile(const std::string& path, const IOOptions& options, rocksdb::FileLock** lock,
                    IODebugContext* debug) override {
    IOStatus status = target()->LockFile(path, options, lock, debug);
    if (status.ok()) ::chmod(path.c_str(), 0600);
    return status;
  }

 private:
  IOStatus CheckTable(const std::string& path, const FileOptions& options, const rocksdb::FSRandomAccessFile& file,
                      IODebugContext* debug) {
    uint64_t size = 0;
    IOStatus status = target()->GetFileSize(path, options.io_options, &size, debug);
    if (!status.ok()) return status;
    const absl::Status checked =
        CheckTableFile(size, [&](uint64_t offset, size_t bytes) -> absl::StatusOr<std::string> {
          std::string buffer(bytes, '\0');
          Slice read;
          status = file.Read(offset, bytes, options.io_options, &read, buffer.data(), debug);
          if (!status.ok()) return absl::UnavailableError("");
          return std::string(read.data(), read.size());
        });
    if (!status.ok() || checked.ok()) return status;
    return IOStatus::Corruption(path, std::string(checked.message()));
  }

  template <typename Open>
  IOStatus Writable(const std::string& path, std::unique_ptr<rocksdb::FSWritableFile>* result,
                    Open open) {
    IOStatus status = Asking(faults_, {FileOp::kCreate, path}, open);
    if (!status.ok()) return status;
    // Until now it had the umask's mode, within a directory of mode 0700.
    if (::chmod(path.c_str(), 0600) != 0) return Failed(errno, path);
    if (faults_ == nullptr) return status;
    struct stat info = {};
    (void)::stat(path.c_str(), &info);
    result->reset(new FaultyWritable(std::move(*result), faults_, path, info.st_size));
    return status;
  }

  FileFaults* const faults_;
};

}  // namespace

std::unique_ptr<rocksdb::Env> NewRocksEnv(FileIo io) {
  return rocksdb::NewCompositeEnv(std::make_shared<RocksFiles>(io));
}

}  // namespace incr
