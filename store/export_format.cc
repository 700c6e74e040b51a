#include "store/export_format.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/page_range.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/catalog.h"
#include "store/checksum.h"
#include "store/lz4_page.h"
#include "store/manifest.h"
#include "store/pack_format.h"

namespace incr {
namespace {

// Positions: file header, frame header, epoch frame.
constexpr size_t kVersionAt = 8, kBodiesAt = 16, kEpochsAt = 24, kJobAt = 32, kHeaderSumAt = 120;
constexpr size_t kJobBytes = 64;
constexpr size_t kKindAt = 0, kBytesAt = 4, kFrameSumAt = 8;
constexpr size_t kTableBytesAt = 0, kTableSumAt = 8, kImageBytesAt = 16, kImageSumAt = 24, kRecordAt = 32;
constexpr size_t kBodyHeaderBytes = 4;
constexpr size_t kEndBytes = 24;
// Golden values: a change here is another format, and needs another version.
static_assert(kExportVersion == 1 && kHeaderSumAt + 8 == kExportHeaderBytes && kFrameSumAt + 8 == kFrameHeaderBytes);
static_assert(kFrameBodies * (kBodyHeaderBytes + kPageSize) <= kMaxFrameBytes);
static_assert(static_cast<uint32_t>(FrameKind::kBodies) == 1 && static_cast<uint32_t>(FrameKind::kEnd) == 5);

// Of a frame with its number, which is in no file: a frame in another place is another frame.
uint64_t FrameSum(uint64_t number, uint32_t kind, absl::string_view payload) {
  std::string all;
  all.reserve(kFrameHeaderBytes + payload.size());
  AppendLittle<uint64_t>(&all, number);
  AppendLittle<uint32_t>(&all, kind);
  AppendLittle<uint32_t>(&all, static_cast<uint32_t>(payload.size()));
  absl::StrAppend(&all, payload);
  return Checksum64(all);
}

}  // namespace

absl::Status ExportWriter::Put(absl::string_view bytes) {
  bytes_ += bytes.size();
  return write_(bytes);
}

absl::Status ExportWriter::Begin(const ExportHeader& header) {
  header_ = header;
  std::string bytes(kExportMagic, sizeof kExportMagic);
  AppendLittle<uint32_t>(&bytes, kExportVersion);
  AppendLittle<uint32_t>(&bytes, 0);
  AppendLittle<uint64_t>(&bytes, header.bodies);
  AppendLittle<uint64_t>(&bytes, header.epochs);
  INCR_CHECK(bytes.size() == kJobAt && IsValidJobName(header.job));
  bytes += header.job;
  bytes.resize(kHeaderSumAt);
  AppendLittle<uint64_t>(&bytes, Checksum64(bytes));
  return Put(bytes);
}

absl::Status ExportWriter::Frame(FrameKind kind, absl::string_view payload) {
  INCR_CHECK(payload.size() <= kMaxFrameBytes);
  std::string frame;
  frame.reserve(kFrameHeaderBytes + payload.size());
  AppendLittle<uint32_t>(&frame, static_cast<uint32_t>(kind));
  AppendLittle<uint32_t>(&frame, static_cast<uint32_t>(payload.size()));
  AppendLittle<uint64_t>(&frame, FrameSum(frames_++, static_cast<uint32_t>(kind), payload));
  absl::StrAppend(&frame, payload);
  return Put(frame);
}

absl::Status ExportWriter::FlushBodies() {
  if (frame_bodies_ == 0) return absl::OkStatus();
  frame_bodies_ = 0;
  const absl::Status status = Frame(FrameKind::kBodies, bodies_);
  bodies_.clear();
  return status;
}

absl::Status ExportWriter::AddBody(const uint8_t* page) {
  uint8_t compressed[kMaxCompressedPage];
  const size_t length = CompressPage(page, compressed);
  const bool raw = length == 0;
  AppendLittle<uint16_t>(&bodies_, raw ? kPageSize : length);
  bodies_.push_back(static_cast<char>(raw ? PageEncoding::kRaw : PageEncoding::kLz4));
  bodies_.push_back(0);
  bodies_.append(reinterpret_cast<const char*>(raw ? page : compressed), raw ? kPageSize : length);
  ++added_bodies_;
  return ++frame_bodies_ == kFrameBodies ? FlushBodies() : absl::OkStatus();
}

absl::Status ExportWriter::Parts(FrameKind kind, absl::string_view bytes) {
  for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), kFramePartBytes))) {
    INCR_RETURN_IF_ERROR(Frame(kind, bytes.substr(0, kFramePartBytes)));
  }
  return absl::OkStatus();
}

absl::Status ExportWriter::AddEpoch(const pb::EpochRecord& record, const PageTable& table,
                                    absl::string_view image) {
  INCR_RETURN_IF_ERROR(FlushBodies());
  ++added_epochs_;
  const std::string manifest = EncodeManifest({table, {}});
  std::string payload;
  AppendLittle<uint64_t>(&payload, manifest.size());
  AppendLittle<uint64_t>(&payload, Checksum64(manifest));
  AppendLittle<uint64_t>(&payload, image.size());
  AppendLittle<uint64_t>(&payload, Checksum64(image));
  record.AppendToString(&payload);
  INCR_RETURN_IF_ERROR(Frame(FrameKind::kEpoch, payload));
  INCR_RETURN_IF_ERROR(Parts(FrameKind::kTable, manifest));
  return Parts(FrameKind::kImage, image);
}

absl::Status ExportWriter::End() {
  INCR_RETURN_IF_ERROR(FlushBodies());
  INCR_CHECK(added_bodies_ == header_.bodies && added_epochs_ == header_.epochs);
  std::string payload;
  AppendLittle<uint64_t>(&payload, added_bodies_);
  AppendLittle<uint64_t>(&payload, added_epochs_);
  AppendLittle<uint64_t>(&payload, frames_);
  INCR_CHECK(payload.size() == kEndBytes);
  return Frame(FrameKind::kEnd, payload);
}

namespace {

class Parser {
 public:
  Parser(absl::FunctionRef<absl::StatusOr<size_t>(char*, size_t)> read, ExportSink* sink)
      : read_(read), sink_(sink) {}

  absl::Status Run() {
    INCR_RETURN_IF_ERROR(ReadHeader());
    for (;;) {
      INCR_RETURN_IF_ERROR(ReadFrame());
      switch (static_cast<FrameKind>(kind_)) {
        case FrameKind::kBodies:
          INCR_RETURN_IF_ERROR(Bodies());
          break;
        case FrameKind::kEpoch:
          INCR_RETURN_IF_ERROR(Epoch());
          break;
        case FrameKind::kEnd:
          return End();
        default:
          return Damaged("a frame where it does not belong");
      }
    }
  }

 private:
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat("the file is cut short or altered: ", what, " (at byte ", frame_at_,
                                            "); nothing of it was taken"));
  }

  // The end before `n` bytes is damage.
  absl::Status Read(char* to, size_t n) {
    for (size_t done = 0; done < n;) {
      INCR_ASSIGN_OR_RETURN(const size_t got, read_(to + done, n - done));
      if (got == 0) return Damaged("it ends too early");
      done += got;
      at_ += got;
    }
    return absl::OkStatus();
  }

  absl::Status ReadHeader() {
    char header[kExportHeaderBytes];
    INCR_RETURN_IF_ERROR(Read(header, sizeof kExportMagic));
    if (std::memcmp(header, kExportMagic, sizeof kExportMagic) != 0) {
      return absl::FailedPreconditionError("not an export file of incr-ckpt");
    }
    INCR_RETURN_IF_ERROR(Read(header + sizeof kExportMagic, sizeof header - sizeof kExportMagic));
    if (GetLittle<uint64_t>(header + kHeaderSumAt) != Checksum64(header, kHeaderSumAt)) {
      return Damaged("its header");
    }
    if (const uint32_t version = GetLittle<uint32_t>(header + kVersionAt); version != kExportVersion) {
      return absl::FailedPreconditionError(absl::StrCat("an export file of version ", version,
                                                        "; this program reads ", kExportVersion,
                                                        ": use a newer incr-ckpt"));
    }
    header_ = {GetLittle<uint64_t>(header + kBodiesAt), GetLittle<uint64_t>(header + kEpochsAt),
               std::string(header + kJobAt, ::strnlen(header + kJobAt, kJobBytes))};
    if (header_.bodies > kMaxExportBodies || header_.epochs > kMaxExportEpochs || header_.epochs == 0 ||
        !IsValidJobName(header_.job)) {
      return Damaged("its header");
    }
    return sink_->Begin(header_);
  }

  absl::Status ReadFrame() {
    frame_at_ = at_;
    char header[kFrameHeaderBytes];
    INCR_RETURN_IF_ERROR(Read(header, sizeof header));
    kind_ = GetLittle<uint32_t>(header + kKindAt);
    const uint32_t bytes = GetLittle<uint32_t>(header + kBytesAt);
    if (bytes > kMaxFrameBytes) return Damaged("a frame out of bounds");
    payload_.resize(bytes);
    INCR_RETURN_IF_ERROR(Read(payload_.data(), bytes));
    if (GetLittle<uint64_t>(header + kFrameSumAt) != FrameSum(frames_, kind_, payload_)) {
      return Damaged("the checksum of a frame");
    }
    ++frames_;
    return absl::OkStatus();
  }

  absl::Status Bodies() {
    if (epochs_ > 0) return Damaged("bodies after an epoch");
    pages_.resize(kFrameBodies * kPageSize);
    size_t count = 0;
    for (size_t at = 0; at < payload_.size(); ++count) {
      if (count == kFrameBodies || payload_.size() - at < kBodyHeaderBytes) return Damaged("a body");
      const size_t length = GetLittle<uint16_t>(payload_.data() + at);
      const auto encoding = static_cast<PageEncoding>(payload_[at + 2]);
      at += kBodyHeaderBytes;
      if (length > payload_.size() - at) return Damaged("a body");
      const auto* body = reinterpret_cast<const uint8_t*>(payload_.data() + at);
      uint8_t* const page = pages_.data() + count * kPageSize;
      at += length;
      if (encoding == PageEncoding::kRaw && length == kPageSize) {
        std::memcpy(page, body, kPageSize);
      } else if (encoding != PageEncoding::kLz4 || length == 0 || !DecompressPage(body, length, page)) {
        return Damaged("a body");
      }
    }
    bodies_ += count;
    if (count == 0 || bodies_ > header_.bodies) return Damaged("the number of bodies");
    return sink_->AddPages(pages_.data(), count);
  }

  absl::StatusOr<std::string> Parts(FrameKind kind, uint64_t bytes, uint64_t sum) {
    std::string all;
    while (all.size() < bytes) {
      INCR_RETURN_IF_ERROR(ReadFrame());
      if (kind_ != static_cast<uint32_t>(kind) || payload_.empty() || payload_.size() > bytes - all.size()) {
        return Damaged("a part of an epoch is missing");
      }
      all += payload_;
    }
    if (Checksum64(all) != sum) return Damaged("the checksum of a part of an epoch");
    return all;
  }

  absl::Status CheckRecord(const pb::EpochRecord& record) {
    if (epochs_ == header_.epochs || record.job() != header_.job || record.epoch() <= last_epoch_) {
      return Damaged("an epoch that does not fit the others");
    }
    if (record.parent() != 0 && !std::binary_search(numbers_.begin(), numbers_.end(), record.parent())) {
      return Damaged("an epoch whose parent is not in the file");
    }
    last_epoch_ = record.epoch();
    numbers_.push_back(last_epoch_);
    return absl::OkStatus();
  }

  absl::Status Epoch() {
    if (bodies_ != header_.bodies) return Damaged("the number of bodies");
    if (payload_.size() < kRecordAt) return Damaged("an epoch's record");
    const char* p = payload_.data();
    const uint64_t table_bytes = GetLittle<uint64_t>(p + kTableBytesAt);
    const uint64_t image_bytes = GetLittle<uint64_t>(p + kImageBytesAt);
    const uint64_t table_sum = GetLittle<uint64_t>(p + kTableSumAt);
    const uint64_t image_sum = GetLittle<uint64_t>(p + kImageSumAt);
    pb::EpochRecord record;
    if (table_bytes > kMaxManifestBytes || image_bytes > kMaxImageBytes || payload_.size() > kMaxEnvelopeBytes ||
        !record.ParseFromArray(p + kRecordAt, static_cast<int>(payload_.size() - kRecordAt))) {
      return Damaged("an epoch's record");
    }
    INCR_RETURN_IF_ERROR(CheckRecord(record));
    INCR_ASSIGN_OR_RETURN(const std::string manifest, Parts(FrameKind::kTable, table_bytes, table_sum));
    absl::StatusOr<PageDelta> table = DecodeManifest(manifest, MaxTablePages());
    if (absl::IsResourceExhausted(table.status())) return table.status();
    if (!table.ok()) return Damaged(table.status().message());
    if (!table->gone.empty() || table->written.size() != record.table_pages()) return Damaged("an epoch's table");
    for (const PageTableEntry& entry : table->written) {
      if (entry.id.high != 0 || entry.id.low > bodies_) return Damaged("an epoch's table");
    }
    INCR_ASSIGN_OR_RETURN(std::string image, Parts(FrameKind::kImage, image_bytes, image_sum));
    ++epochs_;
    return sink_->AddEpoch(std::move(record), std::move(table->written), std::move(image));
  }

  absl::Status End() {
    if (payload_.size() != kEndBytes || GetLittle<uint64_t>(payload_.data()) != bodies_ ||
        GetLittle<uint64_t>(payload_.data() + 8) != epochs_ ||
        GetLittle<uint64_t>(payload_.data() + 16) != frames_ - 1 || bodies_ != header_.bodies ||
        epochs_ != header_.epochs) {
      return Damaged("its end");
    }
    char more;
    frame_at_ = at_;
    INCR_ASSIGN_OR_RETURN(const size_t n, read_(&more, 1));
    return n == 0 ? absl::OkStatus() : Damaged("something follows its end");
  }

  const absl::FunctionRef<absl::StatusOr<size_t>(char*, size_t)> read_;
  ExportSink* const sink_;
  ExportHeader header_;
  uint32_t kind_ = 0;
  std::string payload_;
  std::vector<uint8_t> pages_;
  uint64_t at_ = 0, frame_at_ = 0, frames_ = 0, bodies_ = 0, epochs_ = 0, last_epoch_ = 0;
  std::vector<uint64_t> numbers_;  // of the epochs so far, ascending
};

}  // namespace

absl::Status ParseExport(absl::FunctionRef<absl::StatusOr<size_t>(char* to, size_t n)> read, ExportSink* sink) {
  return Parser(read, sink).Run();
}

}  // namespace incr
