// pack_writer.h — appends page bodies to packs, for one epoch at a time.
//
//   Append()* -> Finish() -> (commit) -> PackSet::CheckIn()
//                  \-> error, or no Finish at all: Abandon() cuts the tail off again
//
// A pack belongs to one writer at a time, so a tail belongs to one epoch. What Finish()
// made durable is never cut: an index write that failed may still have reached RocksDB's log.
//
// Not thread-safe.
#ifndef INCR_CKPT_STORE_PACK_WRITER_H_
#define INCR_CKPT_STORE_PACK_WRITER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "store/file_io.h"
#include "store/pack_format.h"
#include "store/uring_writer.h"

namespace incr {

struct PackFile {
  uint32_t id = 0;
  std::string path;
  ScopedFd fd;          // O_DIRECT if the file system allows it
  uint64_t base = 0;    // durable before this epoch; 0: the epoch created it
  uint64_t end = 0;     // where the next segment goes
  uint64_t allocated = 0;  // size of the file, at least `end` while streaming
};

struct PackLength {
  uint32_t pack = 0;
  uint64_t bytes = 0;
};

class PackWriter {
 public:
  struct Settings {
    std::string directory;
    uint64_t store_tag = 0;
    uint64_t pack_bytes = 0;              // a pack this long gets no further segment
    std::function<absl::StatusOr<uint32_t>()> new_pack_id;
    FileIo io{};
  };

  static absl::StatusOr<std::unique_ptr<PackWriter>> Create(Settings settings);

  // Goes on with `file` (its `end` durable) before creating packs.
  void Adopt(PackFile file);

  // `body`: `length` bytes. An earlier background error comes back here.
  absl::Status Append(const PageId& id, const uint8_t* body, uint16_t length,
                      PageEncoding encoding, PageLocation* location);

  // Copies a body back that this epoch appended.
  absl::Status ReadBack(const PageLocation& location, uint8_t* body);

  // Everything appended is durable when it returns OK. On an error: Abandon().
  absl::Status Finish();
  // Lengths of the packs touched since the last Finish; valid until the next Append.
  const std::vector<PackLength>& finished() const { return finished_; }
  // As if nothing had been appended since the last Finish.
  void Abandon();

  // The pack that a later writer may go on with. After Finish() or Abandon().
  std::optional<PackFile> GiveUpPack();

  // The pack that is appended to next; 0: none.
  uint32_t current_pack() const { return packs_.empty() ? 0 : packs_.back().id; }

  uint64_t TakeBytesWritten() { return std::exchange(bytes_written_, 0); }
  std::string method() const { return queue_->method(); }

 private:
  PackWriter(Settings settings, std::unique_ptr<UringWriter> queue);
  absl::Status NewPack();
  absl::Status OpenSegment();
  void CloseSegment(bool streaming);
  void Preallocate(PackFile& pack, uint64_t end);

  const Settings settings_;
  std::unique_ptr<UringWriter> queue_;
  std::vector<PackFile> packs_;  // touched by this epoch; the last one is appended to
  uint8_t* segment_ = nullptr;   // the open one, null if none
  size_t body_bytes_ = 0;
  std::vector<SegmentEntry> entries_;
  bool created_ = false;  // a directory entry is not durable yet
  std::vector<PackLength> finished_;
  uint64_t bytes_written_ = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_PACK_WRITER_H_
