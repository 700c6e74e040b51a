// The layout: RocksDB's wiki, "Rocksdb BlockBasedTable Format", and its table/format.h. A file ends in
//   type of checksum (1) | handles of the metaindex and the index, padded (40) | version (4) | magic (8)
// and a block in
//   type of compression (1) | checksum (4)
#include "store/table_file_check.h"

#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/checksum.h"
#include "store/varint.h"

namespace incr {
namespace {

constexpr size_t kHandles = 1, kVersion = 41, kMagic = 45, kFooterSize = 53;
constexpr uint64_t kBlockBasedMagic = 0x88e241b785f4cff7;
constexpr uint32_t kLastVersion = 5;
constexpr uint8_t kXxh3 = 4;  // the one that RocksDB writes by default, and we have never chosen another
constexpr uint32_t kLastBytePrime = 0x6b9083d9;
constexpr size_t kTrailerSize = 5;
constexpr uint64_t kMostBlockBytes = 16u << 20;  // They have some hundred bytes.
constexpr absl::string_view kProperties = "rocksdb.properties";
constexpr absl::string_view kSequence = "rocksdb.external_sst_file.global_seqno";

struct Handle {
  uint64_t offset, size;
};

std::optional<Handle> TakeHandle(absl::string_view* in) {
  Handle handle;
  if (!TakeVarint(in, &handle.offset) || !TakeVarint(in, &handle.size)) return std::nullopt;
  return handle;
}

// Of a block and its type of compression, which goes into it by itself.
uint32_t BlockChecksum(absl::string_view with_type) {
  const uint8_t type = with_type.back();
  with_type.remove_suffix(1);
  return static_cast<uint32_t>(Checksum64(with_type)) ^ type * kLastBytePrime;
}

// The value of `name` in a block of sorted keys, each with what it shares with the one before. (Behind the entries is a
// list of offsets, which reads as no entry that anybody looks for.)
std::optional<absl::string_view> Find(absl::string_view block, absl::string_view name) {
  std::string key;
  while (!block.empty()) {
    uint64_t shared, rest, value;
    if (!TakeVarint(&block, &shared) || !TakeVarint(&block, &rest) || !TakeVarint(&block, &value) ||
        shared > key.size() || rest > block.size() || value > block.size() - rest) {
      return std::nullopt;
    }
    key.resize(shared);
    key.append(block.data(), rest);
    if (key == name) return block.substr(rest, value);
    block.remove_prefix(rest + value);
  }
  return std::nullopt;
}

}  // namespace

absl::Status CheckTableFile(uint64_t size,
                            absl::FunctionRef<absl::StatusOr<std::string>(uint64_t offset, size_t bytes)> read) {
  if (size < kFooterSize) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const std::string footer, read(size - kFooterSize, kFooterSize));
  if (footer.size() != kFooterSize || GetLittle<uint64_t>(footer.data() + kMagic) != kBlockBasedMagic ||
      GetLittle<uint32_t>(footer.data() + kVersion) > kLastVersion) {
    return absl::OkStatus();
  }
  const auto block = [&](std::optional<Handle> at, absl::string_view what) -> absl::StatusOr<std::string> {
    const uint64_t room = size - kFooterSize;
    if (!at || at->size > kMostBlockBytes || at->size + kTrailerSize > room ||
        at->offset > room - at->size - kTrailerSize) {
      return absl::DataLossError(absl::StrCat("damaged: the place of its ", what, " is outside of it"));
    }
    INCR_ASSIGN_OR_RETURN(std::string bytes, read(at->offset, at->size + kTrailerSize));
    if (bytes.size() != at->size + kTrailerSize) return absl::DataLossError("ends too soon");
    const uint32_t stored = GetLittle<uint32_t>(bytes.data() + at->size + 1);
    bytes.resize(at->size + 1);
    bool whole = BlockChecksum(bytes) == stored;
    if (!whole) {
      // A file that was ingested had its sequence number written into it afterwards, over eight zeros.
      const std::optional<absl::string_view> sequence = Find({bytes.data(), at->size}, kSequence);
      if (sequence && sequence->size() == 8) {
        std::string before = bytes;
        std::fill_n(before.begin() + (sequence->data() - bytes.data()), 8, '\0');
        whole = BlockChecksum(before) == stored;
      }
    }
    if (!whole) return absl::DataLossError(absl::StrCat("damaged: its ", what, " have another checksum"));
    bytes.pop_back();
    return bytes;
  };
  if (footer[0] != kXxh3) {
    return absl::DataLossError(absl::StrCat("damaged: its checksums are said to be of type ", footer[0] & 0xff));
  }
  absl::string_view handles(footer.data() + kHandles, kVersion - kHandles);
  INCR_ASSIGN_OR_RETURN(const std::string metaindex, block(TakeHandle(&handles), "lists"));
  std::optional<absl::string_view> at = Find(metaindex, kProperties);
  if (!at) return absl::DataLossError("damaged: it has no properties");
  return block(TakeHandle(&*at), "properties").status();
}

}  // namespace incr
