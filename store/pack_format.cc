#include "store/pack_format.h"

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/page_range.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/checksum.h"

namespace incr {
namespace {

// Positions in the segment header.
constexpr size_t kSegMagic = 0, kSegPack = 4, kSegOffset = 8, kSegBody = 16, kSegCount = 20,
                 kSegTotal = 24, kSegTag = 32, kSegTableSum = 48, kSegHeaderSum = 56;
// In the pack header.
constexpr size_t kPackVersionAt = 8, kPackIdAt = 12, kPackTag = 16, kPackSum = 24;

// Golden values: a change here is another format, and needs another version.
static_assert(kSegHeaderSum + 8 == kSegmentHeaderBytes);
static_assert(kPackVersion == 1 && kSegmentHeaderBytes == 64 && kSegmentEntryBytes == 24);
static_assert(kSegmentMaxBytes % kBlockBytes == 0 && kPackHeaderBytes == 4096);
static_assert(kSegmentMagic == uint32_t{'S'} + (uint32_t{'E'} << 8) + (uint32_t{'G'} << 16) +
                                   (uint32_t{'1'} << 24));
static_assert(static_cast<int>(PageEncoding::kRaw) == 0);
static_assert(static_cast<int>(PageEncoding::kLz4) == 1);
static_assert(static_cast<int>(PageEncoding::kZstd) == 2);
static_assert(kLocationBytes == 16 && kPageIdBytes == 16 && kPageSize == 4096);

bool ValidBody(uint16_t length, uint8_t encoding) {
  if (encoding == static_cast<uint8_t>(PageEncoding::kRaw)) return length == kPageSize;
  const bool compressed = encoding == static_cast<uint8_t>(PageEncoding::kLz4) ||
                          encoding == static_cast<uint8_t>(PageEncoding::kZstd);
  return compressed && length >= 1 && length < kPageSize;
}

}  // namespace

void EncodeLocation(const PageLocation& location, char (&out)[kLocationBytes]) {
  PutLittle<uint32_t>(out, location.pack);
  PutLittle<uint16_t>(out + 4, location.length);
  out[6] = static_cast<char>(location.encoding);
  out[7] = 0;
  PutLittle<uint64_t>(out + 8, location.offset);
}

absl::StatusOr<PageLocation> DecodeLocation(absl::string_view bytes) {
  if (bytes.size() != kLocationBytes) return absl::DataLossError("index entry of a wrong size");
  PageLocation location;
  location.pack = GetLittle<uint32_t>(bytes.data());
  location.length = GetLittle<uint16_t>(bytes.data() + 4);
  const uint8_t encoding = bytes[6];
  location.offset = GetLittle<uint64_t>(bytes.data() + 8);
  if (location.pack == 0 || !ValidBody(location.length, encoding) ||
      location.offset < kPackHeaderBytes || location.offset > (uint64_t{1} << 60)) {
    return absl::DataLossError("index entry out of bounds");
  }
  location.encoding = static_cast<PageEncoding>(encoding);
  return location;
}

void EncodePageId(const PageId& id, char (&out)[kPageIdBytes]) {
  PutBig64(out, id.high);
  PutBig64(out + 8, id.low);
}

PageId DecodePageId(const char* bytes) { return {GetBig64(bytes), GetBig64(bytes + 8)}; }

std::string PageIdText(const PageId& id) { return absl::StrFormat("%016x%016x", id.high, id.low); }

std::string PackName(uint32_t pack) { return absl::StrFormat("%08u.pack", pack); }

uint32_t PackIdOf(absl::string_view name) {
  uint32_t pack = 0;
  absl::string_view number = name;
  if (!absl::ConsumeSuffix(&number, ".pack") || !absl::SimpleAtoi(number, &pack)) return 0;
  return PackName(pack) == name ? pack : 0;
}

void EncodePackHeader(uint32_t pack, uint64_t store_tag, uint8_t* out) {
  std::memset(out, 0, kPackHeaderBytes);
  std::memcpy(out, kPackMagic, sizeof kPackMagic);
  PutLittle<uint32_t>(out + kPackVersionAt, kPackVersion);
  PutLittle<uint32_t>(out + kPackIdAt, pack);
  PutLittle<uint64_t>(out + kPackTag, store_tag);
  PutLittle<uint64_t>(out + kPackSum, Checksum64(out, kPackSum));
}

absl::Status CheckPackHeader(const uint8_t* header, uint32_t pack, uint64_t store_tag) {
  if (std::memcmp(header, kPackMagic, sizeof kPackMagic) != 0) {
    return absl::DataLossError("not a pack");
  }
  const uint32_t version = GetLittle<uint32_t>(header + kPackVersionAt);
  if (version != kPackVersion) {
    return absl::FailedPreconditionError(absl::StrCat("pack version ", version, ", this program reads ",
                                                      kPackVersion));
  }
  if (GetLittle<uint64_t>(header + kPackSum) != Checksum64(header, kPackSum)) {
    return absl::DataLossError("pack header damaged");
  }
  if (GetLittle<uint32_t>(header + kPackIdAt) != pack) {
    return absl::DataLossError("pack renamed");
  }
  if (GetLittle<uint64_t>(header + kPackTag) != store_tag) {
    return absl::DataLossError("pack of another store");
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PackHeaderTag(const uint8_t* header) {
  const uint64_t tag = GetLittle<uint64_t>(header + kPackTag);
  INCR_RETURN_IF_ERROR(CheckPackHeader(header, GetLittle<uint32_t>(header + kPackIdAt), tag));
  return tag;
}

size_t SegmentBytes(size_t body_bytes, size_t entry_count) {
  const size_t used = kSegmentHeaderBytes + body_bytes + entry_count * kSegmentEntryBytes;
  return (used + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

size_t SealSegment(uint32_t pack, uint64_t offset, uint64_t store_tag, size_t body_bytes,
                   const std::vector<SegmentEntry>& entries, uint8_t* segment) {
  const size_t total = SegmentBytes(body_bytes, entries.size());
  INCR_CHECK(total <= kSegmentMaxBytes && offset % kBlockBytes == 0);
  uint8_t* const table = segment + kSegmentHeaderBytes + body_bytes;
  uint8_t* to = table;
  for (const SegmentEntry& entry : entries) {
    INCR_CHECK(entry.offset + size_t{entry.length} <= kSegmentHeaderBytes + body_bytes);
    PutLittle<uint64_t>(to, entry.id.high);
    PutLittle<uint64_t>(to + 8, entry.id.low);
    PutLittle<uint32_t>(to + 16, entry.offset);
    PutLittle<uint16_t>(to + 20, entry.length);
    to[22] = static_cast<uint8_t>(entry.encoding);
    to[23] = 0;
    to += kSegmentEntryBytes;
  }
  std::memset(to, 0, segment + total - to);
  std::memset(segment, 0, kSegmentHeaderBytes);
  PutLittle<uint32_t>(segment + kSegMagic, kSegmentMagic);
  PutLittle<uint32_t>(segment + kSegPack, pack);
  PutLittle<uint64_t>(segment + kSegOffset, offset);
  PutLittle<uint32_t>(segment + kSegBody, body_bytes);
  PutLittle<uint32_t>(segment + kSegCount, entries.size());
  PutLittle<uint32_t>(segment + kSegTotal, total);
  PutLittle<uint64_t>(segment + kSegTag, store_tag);
  PutLittle<uint64_t>(segment + kSegTableSum, Checksum64(table, to - table));
  PutLittle<uint64_t>(segment + kSegHeaderSum, Checksum64(segment, kSegHeaderSum));
  return total;
}

absl::StatusOr<SegmentHeader> DecodeSegmentHeader(const uint8_t* bytes, uint32_t pack,
                                                  uint64_t offset, uint64_t store_tag) {
  if (GetLittle<uint32_t>(bytes + kSegMagic) != kSegmentMagic ||
      GetLittle<uint64_t>(bytes + kSegHeaderSum) != Checksum64(bytes, kSegHeaderSum)) {
    return absl::DataLossError("no segment header");
  }
  if (GetLittle<uint32_t>(bytes + kSegPack) != pack ||
      GetLittle<uint64_t>(bytes + kSegOffset) != offset ||
      GetLittle<uint64_t>(bytes + kSegTag) != store_tag) {
    return absl::DataLossError("segment of another place");
  }
  SegmentHeader header;
  header.body_bytes = GetLittle<uint32_t>(bytes + kSegBody);
  header.entry_count = GetLittle<uint32_t>(bytes + kSegCount);
  header.total_bytes = GetLittle<uint32_t>(bytes + kSegTotal);
  header.table_checksum = GetLittle<uint64_t>(bytes + kSegTableSum);
  if (header.body_bytes > kSegmentMaxBytes || header.entry_count > kSegmentMaxBytes ||
      header.total_bytes > kSegmentMaxBytes ||
      header.total_bytes != SegmentBytes(header.body_bytes, header.entry_count)) {
    return absl::DataLossError("segment sizes out of bounds");
  }
  return header;
}

absl::StatusOr<std::vector<SegmentEntry>> DecodeSegmentTable(const SegmentHeader& header,
                                                             const uint8_t* segment) {
  const uint8_t* from = segment + kSegmentHeaderBytes + header.body_bytes;
  const size_t bytes = size_t{header.entry_count} * kSegmentEntryBytes;
  if (Checksum64(from, bytes) != header.table_checksum) {
    return absl::DataLossError("segment table damaged");
  }
  std::vector<SegmentEntry> entries(header.entry_count);
  for (SegmentEntry& entry : entries) {
    entry.id = {GetLittle<uint64_t>(from), GetLittle<uint64_t>(from + 8)};
    entry.offset = GetLittle<uint32_t>(from + 16);
    entry.length = GetLittle<uint16_t>(from + 20);
    const uint8_t encoding = from[22];
    if (!ValidBody(entry.length, encoding) || entry.offset < kSegmentHeaderBytes ||
        entry.offset > kSegmentMaxBytes ||
        entry.offset + entry.length > kSegmentHeaderBytes + header.body_bytes) {
      return absl::DataLossError("segment entry out of bounds");
    }
    entry.encoding = static_cast<PageEncoding>(encoding);
    from += kSegmentEntryBytes;
  }
  return entries;
}

std::string EncodePackLength(uint64_t bytes) {
  std::string value;
  AppendLittle<uint64_t>(&value, bytes);
  return value;
}

absl::StatusOr<uint64_t> DecodePackLength(absl::string_view value) {
  if (value.size() != 8) return absl::DataLossError("pack length record of a wrong size");
  const uint64_t bytes = GetLittle<uint64_t>(value.data());
  if (bytes < kPackHeaderBytes || bytes % kBlockBytes != 0 || bytes > (uint64_t{1} << 60)) {
    return absl::DataLossError("pack length record out of bounds");
  }
  return bytes;
}

}  // namespace incr
