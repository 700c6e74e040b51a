#include "store/fuzz_parsers.h"

#include <algorithm>
#include <cstring>

#include "base/page_range.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/catalog.h"
#include "store/checksum.h"
#include "store/export_format.h"
#include "store/lz4_page.h"
#include "store/manifest.h"
#include "store/pack_format.h"
#include "store/zstd_page.h"

namespace incr {
namespace {

constexpr uint64_t kTag = 0x1122334455667788;
constexpr uint64_t kMostPages = 1u << 16;

// A page that the seed number makes half compressible.
std::vector<uint8_t> PageOf(int seed) {
  std::vector<uint8_t> page(kPageSize);
  for (size_t i = 0; i < 200; ++i) page[i] = static_cast<uint8_t>(i * 7 + seed);
  return page;
}

// --- manifest

bool RunManifest(const std::string& bytes) {
  const absl::StatusOr<PageDelta> delta = DecodeManifest(bytes, kMostPages);
  if (!delta.ok()) return false;
  INCR_CHECK(delta->written.size() <= kMostPages);
  for (size_t i = 0; i < delta->written.size(); ++i) {
    const PageTableEntry& entry = delta->written[i];
    INCR_CHECK(entry.page < kMaxPageNumber);
    if (i == 0) continue;
    const PageTableEntry& before = delta->written[i - 1];
    INCR_CHECK(std::make_pair(before.space, before.page) < std::make_pair(entry.space, entry.page));
  }
  // What was accepted is written the same way by us.
  const absl::StatusOr<PageDelta> again = DecodeManifest(EncodeManifest(*delta), kMostPages);
  INCR_CHECK(again.ok() && again->written == delta->written);
  return true;
}

std::string SeedManifest(int n) {
  PageDelta delta;
  if (n == 1) delta.written = {{1, 5, {7, 8}}, {1, 6, {9, 1}}, {1, 9, {}}, {1u << 24, 0, {3, 4}}};
  if (n == 2) {
    delta.gone = {{1, {2, 3}}, {4, {0, 1}}};
    for (uint64_t page = 0; page < 40; ++page) delta.written.push_back({2, page * 2, {page, page + 1}});
  }
  return n > 2 ? "" : EncodeManifest(delta);
}

// --- epoch record

void SetLastSum(std::string* bytes) {
  if (bytes->size() < 8) return;
  const size_t at = bytes->size() - 8;
  PutLittle<uint64_t>(bytes->data() + at, Checksum64(bytes->data(), at));
}

bool RunRecord(const std::string& bytes) {
  (void)DecodeEnvelope(bytes);
  std::string fixed = bytes;
  SetLastSum(&fixed);
  const absl::StatusOr<EpochEnvelope> envelope = DecodeEnvelope(fixed);
  if (!envelope.ok()) return false;
  INCR_CHECK(envelope->manifest_bytes <= kMaxManifestBytes && envelope->image_bytes <= kMaxImageBytes);
  return true;
}

std::string SeedRecord(int n) {
  EpochEnvelope envelope;
  envelope.manifest_bytes = 24;
  if (n > 0) {
    envelope.depth = 3;
    envelope.record.set_job("job");
    envelope.record.set_epoch(9);
    envelope.record.set_parent(8);
    envelope.record.mutable_stats()->set_pages_written(1000);
    envelope.record.set_tracker("uffd-wp-async");
  }
  return n > 1 ? "" : EncodeEnvelope(envelope);
}

// --- pack: header and one segment

void FixPack(std::string* bytes) {
  auto* p = reinterpret_cast<uint8_t*>(bytes->data());
  if (bytes->size() < kPackHeaderBytes + kSegmentHeaderBytes) return;
  PutLittle<uint64_t>(p + 24, Checksum64(p, 24));
  uint8_t* const segment = p + kPackHeaderBytes;
  const uint64_t body = GetLittle<uint32_t>(segment + 16), count = GetLittle<uint32_t>(segment + 20);
  const uint64_t table = kSegmentHeaderBytes + body, end = table + count * kSegmentEntryBytes;
  if (end <= bytes->size() - kPackHeaderBytes) {
    PutLittle<uint64_t>(segment + 48, Checksum64(segment + table, end - table));
  }
  PutLittle<uint64_t>(segment + 56, Checksum64(segment, 56));
}

bool ParsePack(const std::string& bytes) {
  if (bytes.size() < kPackHeaderBytes + kSegmentHeaderBytes) return false;
  const auto* p = reinterpret_cast<const uint8_t*>(bytes.data());
  const bool header_ok = CheckPackHeader(p, 1, kTag).ok();
  (void)PackHeaderTag(p);
  const uint8_t* const segment = p + kPackHeaderBytes;
  const absl::StatusOr<SegmentHeader> header = DecodeSegmentHeader(segment, 1, kPackHeaderBytes, kTag);
  if (!header.ok() || header->total_bytes > bytes.size() - kPackHeaderBytes) return false;
  const absl::StatusOr<std::vector<SegmentEntry>> table = DecodeSegmentTable(*header, segment);
  if (!table.ok()) return false;
  for (const SegmentEntry& entry : *table) {
    uint8_t page[kPageSize];
    INCR_CHECK(entry.offset + entry.length <= header->total_bytes);
    if (entry.encoding == PageEncoding::kLz4) (void)DecompressPage(segment + entry.offset, entry.length, page);
  }
  return header_ok;
}

bool RunPack(const std::string& bytes) {
  (void)ParsePack(bytes);
  (void)DecodeLocation(bytes.substr(0, kLocationBytes));
  (void)DecodePackLength(bytes.substr(0, 8));
  std::string fixed = bytes;
  FixPack(&fixed);
  return ParsePack(fixed);
}

std::string SeedPack(int n) {
  if (n > 1) return "";
  std::vector<uint8_t> pack(kPackHeaderBytes + kSegmentMaxBytes);
  EncodePackHeader(1, kTag, pack.data());
  uint8_t* const segment = pack.data() + kPackHeaderBytes;
  std::vector<SegmentEntry> entries;
  size_t body = 0;
  for (int i = 0; i < (n == 0 ? 1 : 6); ++i) {
    const size_t length = CompressPage(PageOf(i).data(), segment + kSegmentHeaderBytes + body);
    entries.push_back({{uint64_t(i), 77}, static_cast<uint32_t>(kSegmentHeaderBytes + body),
                       static_cast<uint16_t>(length), PageEncoding::kLz4});
    body += length;
  }
  const size_t total = SealSegment(1, kPackHeaderBytes, kTag, body, entries, segment);
  return {pack.begin(), pack.begin() + kPackHeaderBytes + total};
}

// --- a page's body; the first byte says of which kind

bool RunBody(const std::string& bytes) {
  if (bytes.empty()) return false;
  const auto* body = reinterpret_cast<const uint8_t*>(bytes.data()) + 1;
  uint8_t page[kPageSize];
  return bytes[0] % 2 == 0 ? DecompressPage(body, bytes.size() - 1, page)
                           : DecompressZstdPage(body, bytes.size() - 1, page);
}

std::string SeedBody(int n) {
  if (n > 1) return "";
  uint8_t body[kMaxCompressedPage];
  const size_t size = n == 0 ? CompressPage(PageOf(3).data(), body)
                             : CompressZstdPage(PageOf(3).data(), body, sizeof body);
  return std::string(1, static_cast<char>(n)) + std::string(body, body + size);
}

// --- export file

uint64_t FrameSum(uint64_t number, const char* frame, uint32_t payload) {
  std::string all;
  AppendLittle<uint64_t>(&all, number);
  all.append(frame, 8);
  all.append(frame + kFrameHeaderBytes, payload);
  return Checksum64(all);
}

// Frames' sums; and the sums of an epoch's parts, as far as they follow it whole.
void FixExport(std::string* bytes) {
  if (bytes->size() < kExportHeaderBytes) return;
  PutLittle<uint64_t>(bytes->data() + 120, Checksum64(bytes->data(), 120));
  char* epoch = nullptr;
  std::string parts[2];
  const auto set_part_sums = [&] {
    for (int i = 0; i < 2 && epoch != nullptr; ++i) {
      PutLittle<uint64_t>(epoch + kFrameHeaderBytes + 8 + 16 * i, Checksum64(parts[i]));
      parts[i].clear();
    }
  };
  for (const int pass : {0, 1}) {  // An epoch's own sum last.
    uint64_t number = 0;
    for (size_t at = kExportHeaderBytes; at + kFrameHeaderBytes <= bytes->size(); ++number) {
      char* const frame = bytes->data() + at;
      const uint32_t kind = GetLittle<uint32_t>(frame), payload = GetLittle<uint32_t>(frame + 4);
      if (payload > bytes->size() - at - kFrameHeaderBytes) break;
      if (pass == 0 && (kind == 2 || kind == 5)) {
        set_part_sums();
        epoch = kind == 2 && payload >= 32 ? frame : nullptr;
      }
      if (pass == 0 && (kind == 3 || kind == 4)) parts[kind - 3].append(frame + kFrameHeaderBytes, payload);
      if (pass == 1) PutLittle<uint64_t>(frame + 8, FrameSum(number, frame, payload));
      at += kFrameHeaderBytes + payload;
    }
    if (pass == 0) set_part_sums();
  }
}

class CheckingSink : public ExportSink {
 public:
  absl::Status Begin(const ExportHeader& header) override {
    INCR_CHECK(IsValidJobName(header.job));
    return absl::OkStatus();
  }
  absl::Status AddPages(const uint8_t* pages, size_t count) override {
    INCR_CHECK(epochs_ == 0);
    for (size_t i = 0; i < count * kPageSize; i += 64) sum_ += pages[i];
    pages_ += count;
    return absl::OkStatus();
  }
  absl::Status AddEpoch(pb::EpochRecord record, PageTable table, std::string) override {
    ++epochs_;
    INCR_CHECK(record.table_pages() == table.size());
    for (const PageTableEntry& entry : table) INCR_CHECK(entry.id.high == 0 && entry.id.low <= pages_);
    return absl::OkStatus();
  }

 private:
  uint64_t pages_ = 0, epochs_ = 0, sum_ = 0;
};

bool ParseExportBytes(const std::string& bytes) {
  size_t at = 0;
  CheckingSink sink;
  return ParseExport(
             [&](char* to, size_t n) -> absl::StatusOr<size_t> {
               n = std::min({n, bytes.size() - at, size_t{1000}});
               std::memcpy(to, bytes.data() + at, n);
               at += n;
               return n;
             },
             &sink)
      .ok();
}

bool RunExport(const std::string& bytes) {
  (void)ParseExportBytes(bytes);
  std::string fixed = bytes;
  FixExport(&fixed);
  return ParseExportBytes(fixed);
}

std::string SeedExport(int n) {
  if (n > 1) return "";
  std::string file;
  ExportWriter writer([&](absl::string_view bytes) {
    file.append(bytes.data(), bytes.size());
    return absl::OkStatus();
  });
  const uint64_t bodies = n == 0 ? 1 : 5, epochs = n == 0 ? 1 : 3;
  INCR_CHECK(writer.Begin({bodies, epochs, "job"}).ok());
  for (uint64_t i = 0; i < bodies; ++i) INCR_CHECK(writer.AddBody(PageOf(static_cast<int>(i)).data()).ok());
  for (uint64_t epoch = 1; epoch <= epochs; ++epoch) {
    PageTable table = {{1, 3, {}}};
    for (uint64_t i = 1; i <= bodies; ++i) table.push_back({1, 10 * i + epoch, {0, i}});
    pb::EpochRecord record;
    record.set_job("job");
    record.set_epoch(epoch * 2);
    record.set_parent(epoch == 1 ? 0 : epoch * 2 - 2);
    record.set_table_pages(table.size());
    INCR_CHECK(writer.AddEpoch(record, table, std::string(epoch * 50, 'i')).ok());
  }
  INCR_CHECK(writer.End().ok());
  return file;
}

}  // namespace

const std::vector<FuzzParser>& FuzzParsers() {
  static const std::vector<FuzzParser> parsers = {{"manifest", &RunManifest, &SeedManifest},
                                                  {"record", &RunRecord, &SeedRecord},
                                                  {"pack", &RunPack, &SeedPack},
                                                  {"body", &RunBody, &SeedBody},
                                                  {"export", &RunExport, &SeedExport}};
  return parsers;
}

}  // namespace incr
