// export_format.h — the bytes of an export file (drawn in docs/formats.md): a header, frames, an end frame.
//
//   header, bodies..., for each epoch: record, its table in parts, its image in parts; end
//
// Bodies come first and are numbered as they come, so that a reader of a pipe can store each as it arrives and
// keeps 16 bytes of it. Pages are under no secret: in tables their ids are {0, number of the body}.
//
// Every frame has a checksum that covers its number too: nothing can be cut, swapped, doubled or left out.
// Against damage, not against forgery. Not thread-safe.
#ifndef INCR_CKPT_STORE_EXPORT_FORMAT_H_
#define INCR_CKPT_STORE_EXPORT_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/epoch.pb.h"
#include "store/page_table.h"

namespace incr {

inline constexpr uint32_t kExportVersion = 1;
inline constexpr char kExportMagic[8] = {'I', 'C', 'K', 'E', 'X', 'P', 'T', '\n'};
inline constexpr size_t kExportHeaderBytes = 128;
inline constexpr size_t kFrameHeaderBytes = 16;
inline constexpr size_t kMaxFrameBytes = 2u << 20;  // payload
inline constexpr size_t kFrameBodies = 256;         // at most, in one frame
inline constexpr size_t kFramePartBytes = 1u << 20;
inline constexpr uint64_t kMaxExportBodies = uint64_t{1} << 40;
inline constexpr uint64_t kMaxExportEpochs = uint64_t{1} << 20;

enum class FrameKind : uint32_t { kBodies = 1, kEpoch = 2, kTable = 3, kImage = 4, kEnd = 5 };

struct ExportHeader {
  uint64_t bodies = 0, epochs = 0;
  std::string job;  // of all epochs
};

class ExportWriter {
 public:
  using Write = std::function<absl::Status(absl::string_view bytes)>;
  explicit ExportWriter(Write write) : write_(std::move(write)) {}

  absl::Status Begin(const ExportHeader& header);
  absl::Status AddBody(const uint8_t* page);
  // `table`: ids as numbers of bodies, from 1. `record.parent`: 0 or an epoch added before.
  absl::Status AddEpoch(const pb::EpochRecord& record, const PageTable& table, absl::string_view image);
  absl::Status End();

  uint64_t bytes_written() const { return bytes_; }

 private:
  absl::Status Put(absl::string_view bytes);
  absl::Status Frame(FrameKind kind, absl::string_view payload);
  absl::Status Parts(FrameKind kind, absl::string_view bytes);
  absl::Status FlushBodies();

  const Write write_;
  ExportHeader header_;
  std::string bodies_;  // the frame being filled
  size_t frame_bodies_ = 0;
  uint64_t added_bodies_ = 0, added_epochs_ = 0, frames_ = 0, bytes_ = 0;
};

// What a file holds, as it is read. Nothing of it may be believed before ParseExport() has returned OK.
class ExportSink {
 public:
  virtual ~ExportSink() = default;
  virtual absl::Status Begin(const ExportHeader& header) = 0;
  virtual absl::Status AddPages(const uint8_t* pages, size_t count) = 0;
  // `table`: every id is {0, n} with n at most the number of pages added; `record` fits the epochs before it.
  virtual absl::Status AddEpoch(pb::EpochRecord record, PageTable table, std::string image) = 0;
};

// `read(to, n)`: up to n bytes, 0 at the end. Any bytes are safe. kDataLoss says where the file is cut short or
// altered; kFailedPrecondition: no export file, or of a newer version.
absl::Status ParseExport(absl::FunctionRef<absl::StatusOr<size_t>(char* to, size_t n)> read, ExportSink* sink);

}  // namespace incr

#endif  // INCR_CKPT_STORE_EXPORT_FORMAT_H_
