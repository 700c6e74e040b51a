// pack_reader.h — page bodies out of packs, each checked against its id.
// Thread-safe.
#ifndef INCR_CKPT_STORE_PACK_READER_H_
#define INCR_CKPT_STORE_PACK_READER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/scoped_fd.h"
#include "store/file_io.h"
#include "store/pack_format.h"
#include "store/page_id.h"

namespace incr {

class PackReader {
 public:
  // `hasher` outlives it.
  PackReader(std::string directory, const PageHasher* hasher, FileIo io = FileIo())
      : io_(io), directory_(std::move(directory)), hasher_(hasher) {}

  // `bytes` of `pack` at `offset`. kDataLoss names the pack and offset if they are not there.
  absl::Status ReadRun(uint32_t pack, uint64_t offset, size_t bytes, uint8_t* to) const;

  // Decodes the body of `id` into `page`. On a wrong hash it reads the body once more past the
  // page cache (a buffered read can race a direct write) before it says kDataLoss.
  absl::Status Decode(const PageId& id, const PageLocation& location, const uint8_t* body,
                      uint8_t* page) const;

  // A descriptor for reads of whole blocks past the page cache. An error where that does not work, or must not be done (a
  // faulty disk judges call by call).
  absl::StatusOr<ScopedFd> OpenDirect(uint32_t pack) const;

  absl::Status ReadPage(const PageId& id, const PageLocation& location, uint8_t* page) const;

  // Closes its file: a deleted pack takes space for as long as somebody has it open.
  void Forget(uint32_t pack) const;

 private:
  absl::StatusOr<std::shared_ptr<ScopedFd>> Open(uint32_t pack) const;
  std::string PathOf(uint32_t pack) const;
  bool DecodeOnce(const PageId& id, const PageLocation& location, const uint8_t* body,
                  uint8_t* page) const;

  const FileIo io_;
  const std::string directory_;
  const PageHasher* const hasher_;
  mutable absl::Mutex mutex_;
  mutable std::map<uint32_t, std::shared_ptr<ScopedFd>> open_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_PACK_READER_H_
