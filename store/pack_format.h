// pack_format.h — the bytes of a pack (drawn in docs/formats.md).
//
//   pack     = pack header (one block), then segments
//   segment  = segment header, bodies, table of what they are, zeros up to a block
//
// A segment says by itself what it holds, so the index can be rebuilt from packs alone.
// Everything is little-endian. Segments start and end on blocks because of O_DIRECT.
// Pure functions; thread-safe.
#ifndef INCR_CKPT_STORE_PACK_FORMAT_H_
#define INCR_CKPT_STORE_PACK_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/page_id.h"

namespace incr {

inline constexpr uint32_t kPackVersion = 1;
inline constexpr char kPackMagic[8] = {'I', 'C', 'K', 'P', 'A', 'C', 'K', '\n'};
inline constexpr uint32_t kSegmentMagic = 0x31474553;  // "SEG1"
inline constexpr size_t kBlockBytes = 4096;
inline constexpr size_t kPackHeaderBytes = kBlockBytes;
inline constexpr size_t kSegmentHeaderBytes = 64;
inline constexpr size_t kSegmentEntryBytes = 24;
inline constexpr size_t kSegmentMaxBytes = 1u << 20;
inline constexpr size_t kLocationBytes = 16;
inline constexpr size_t kPageIdBytes = 16;

enum class PageEncoding : uint8_t { kRaw = 0, kLz4 = 1, kZstd = 2 };

// Where a page's body lies.
struct PageLocation {
  uint32_t pack = 0;
  uint64_t offset = 0;  // bytes from the start of the pack
  uint16_t length = 0;  // 1..4096
  PageEncoding encoding = PageEncoding::kRaw;
  uint64_t end() const { return offset + length; }
  bool operator==(const PageLocation&) const = default;
};

// Value of the index: u32 pack, u16 length, u8 encoding, u8 0, u64 offset.
void EncodeLocation(const PageLocation& location, char (&out)[kLocationBytes]);
absl::StatusOr<PageLocation> DecodeLocation(absl::string_view bytes);

// Key of the index: high, low, both big-endian, so that keys sort as PageId does.
void EncodePageId(const PageId& id, char (&out)[kPageIdBytes]);
PageId DecodePageId(const char* bytes);  // kPageIdBytes of them
std::string PageIdText(const PageId& id);  // 32 hex digits

// "00000007.pack", and back; 0 if `name` is not one.
std::string PackName(uint32_t pack);
uint32_t PackIdOf(absl::string_view name);

// `out`: kPackHeaderBytes. `store_tag` says whose secret the ids are under.
void EncodePackHeader(uint32_t pack, uint64_t store_tag, uint8_t* out);
absl::Status CheckPackHeader(const uint8_t* header, uint32_t pack, uint64_t store_tag);

// The tag in a header that is whole, of whatever pack and store.
absl::StatusOr<uint64_t> PackHeaderTag(const uint8_t* header);

struct SegmentEntry {
  PageId id;
  uint32_t offset = 0;  // bytes from the start of the segment
  uint16_t length = 0;
  PageEncoding encoding = PageEncoding::kRaw;
};

struct SegmentHeader {
  uint32_t body_bytes = 0;   // right after the header
  uint32_t entry_count = 0;
  uint32_t total_bytes = 0;  // whole blocks
  uint64_t table_checksum = 0;
};

// Block-rounded size of a segment with so much in it.
size_t SegmentBytes(size_t body_bytes, size_t entry_count);

// Completes a segment whose bodies are already in place at segment + kSegmentHeaderBytes:
// writes table, zeros and header. `segment` has kSegmentMaxBytes. Returns SegmentBytes().
size_t SealSegment(uint32_t pack, uint64_t offset, uint64_t store_tag, size_t body_bytes,
                   const std::vector<SegmentEntry>& entries, uint8_t* segment);

// kDataLoss unless `bytes` (kSegmentHeaderBytes) are the header of the segment at `offset`
// of `pack`. Sizes in the result are within bounds.
absl::StatusOr<SegmentHeader> DecodeSegmentHeader(const uint8_t* bytes, uint32_t pack,
                                                  uint64_t offset, uint64_t store_tag);
// `segment`: header.total_bytes. Every entry of the result lies within the bodies.
absl::StatusOr<std::vector<SegmentEntry>> DecodeSegmentTable(const SegmentHeader& header,
                                                             const uint8_t* segment);

// Value of the packs table: bytes of a pack that are durable and may be referred to.
std::string EncodePackLength(uint64_t bytes);
absl::StatusOr<uint64_t> DecodePackLength(absl::string_view value);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PACK_FORMAT_H_
