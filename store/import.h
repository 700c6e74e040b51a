// import.h — an exported file's epochs into a store, whole or not at all.
#ifndef INCR_CKPT_STORE_IMPORT_H_
#define INCR_CKPT_STORE_IMPORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "store/file_io.h"
#include "store/store.h"

namespace incr {

struct ImportOptions {
  std::string job;   // "": as in the file
  std::string name;  // of the file, for messages
  std::function<void(uint64_t bytes)> progress;  // read so far; may be null
  // Whether this job may be given epochs now; may be null.
  std::function<absl::Status(const std::string& job)> may_take;
  // Asked before every read, and ten times a second while there is nothing to read: kCancelled once it says so. May
  // be null.
  std::function<bool()> stopped;
  FileIo io{};
};

struct ImportResult {
  std::string job, from_job;
  struct Epoch {
    uint64_t epoch = 0, parent = 0;  // here
    uint64_t from_epoch = 0;         // in the file
  };
  std::vector<Epoch> epochs;
  uint64_t pages = 0, pages_stored = 0, bytes = 0;
};

// Reads `fd`, a file or a pipe, from where it is to the end. Any error: the store is as before. kCancelled: it was
// stopped.
absl::StatusOr<ImportResult> ImportEpochs(Store* store, int fd, const ImportOptions& options);

}  // namespace incr

#endif  // INCR_CKPT_STORE_IMPORT_H_
