#include "store/manifest.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/byte_order.h"
#include "store/varint.h"

namespace incr {
namespace {

static_assert(kManifestMagic == uint32_t{'M'} + (uint32_t{'A'} << 8) + (uint32_t{'N'} << 16) +
                                    (uint32_t{'1'} << 24));
static_assert(kManifestVersion == 1 && kManifestHeaderBytes == 4 + 4 + 8 + 8);
constexpr size_t kIdBytes = 16;
constexpr size_t kMinRunBytes = 3;  // three varints
enum RunKind : uint64_t { kBodies = 0, kZeroPages = 1, kGone = 2 };
static_assert(kBodies == 0 && kZeroPages == 1 && kGone == 2);

class RunEncoder {
 public:
  explicit RunEncoder(std::string* out) : out_(out) {}
  void Add(RunKind kind, uint32_t space, PageRange range) {
    if (space != space_) at_ = 0;
    AppendVarint(out_, range.count << 2 | kind);
    AppendVarint(out_, space - space_);
    AppendVarint(out_, range.first - at_);
    space_ = space;
    at_ = range.end();
  }

 private:
  std::string* const out_;
  uint32_t space_ = 0;
  uint64_t at_ = 0;
};

// Reads runs; they cannot come out unsorted or overlapping, since only gaps are stored.
class RunDecoder {
 public:
  RunDecoder(absl::string_view bytes, size_t at) : bytes_(bytes), at_(at) {}
  bool done() const { return at_ == bytes_.size(); }
  void Restart() { space_ = next_page_ = 0; }

  absl::Status Next(RunKind* kind, SpaceRange* run) {
    uint64_t tag, space, gap;
    if (!Varint(&tag) || !Varint(&space) || !Varint(&gap)) return Damaged("ends within a run");
    if (space > UINT32_MAX - space_) return Damaged("space out of bounds");
    if (space != 0) next_page_ = 0;
    *kind = static_cast<RunKind>(tag & 3);
    const uint64_t count = tag >> 2;
    if (count == 0 || count > kMaxPageNumber || gap > kMaxPageNumber ||
        next_page_ + gap + count > kMaxPageNumber) {
      return Damaged("page number out of bounds");
    }
    space_ += space;
    *run = {static_cast<uint32_t>(space_), {next_page_ + gap, count}};
    next_page_ = run->range.end();
    return absl::OkStatus();
  }

  // `count` ids; null if there are not so many.
  const char* Ids(uint64_t count) {
    if (count > (bytes_.size() - at_) / kIdBytes) return nullptr;
    const char* ids = bytes_.data() + at_;
    at_ += count * kIdBytes;
    return ids;
  }

  static absl::Status Damaged(absl::string_view how) {
    return absl::DataLossError(absl::StrCat("manifest damaged: ", how));
  }

 private:
  bool Varint(uint64_t* value) {
    absl::string_view rest = bytes_.substr(at_);
    const bool taken = TakeVarint(&rest, value);
    at_ = bytes_.size() - rest.size();
    return taken;
  }

  const absl::string_view bytes_;
  size_t at_;
  uint64_t space_ = 0;
  uint64_t next_page_ = 0;
};

}  // namespace

std::string EncodeManifest(const PageDelta& delta) {
  std::string out;
  out.reserve(kManifestHeaderBytes + delta.written.size() * (kIdBytes + 1) + 64);
  AppendLittle<uint32_t>(&out, kManifestMagic);
  AppendLittle<uint32_t>(&out, kManifestVersion);
  AppendLittle<uint64_t>(&out, delta.written.size());
  AppendLittle<uint64_t>(&out, delta.gone.size());
  RunEncoder gone(&out);
  for (const SpaceRange& run : delta.gone) gone.Add(kGone, run.space, run.range);
  RunEncoder runs(&out);
  for (size_t i = 0; i < delta.written.size();) {
    const PageTableEntry& first = delta.written[i];
    const bool zero = first.id.is_zero_page();
    size_t end = i + 1;
    while (end < delta.written.size() && delta.written[end].space == first.space &&
           delta.written[end].page == first.page + (end - i) &&
           delta.written[end].id.is_zero_page() == zero) {
      ++end;
    }
    runs.Add(zero ? kZeroPages : kBodies, first.space, {first.page, end - i});
    for (; i < end; ++i) {
      if (zero) continue;
      AppendLittle<uint64_t>(&out, delta.written[i].id.high);
      AppendLittle<uint64_t>(&out, delta.written[i].id.low);
    }
  }
  return out;
}

absl::StatusOr<PageDelta> DecodeManifest(absl::string_view bytes, uint64_t max_pages) {
  if (bytes.size() < kManifestHeaderBytes ||
      GetLittle<uint32_t>(bytes.data()) != kManifestMagic) {
    return RunDecoder::Damaged("no header");
  }
  if (GetLittle<uint32_t>(bytes.data() + 4) != kManifestVersion) {
    return absl::FailedPreconditionError("manifest of another version");
  }
  const uint64_t pages = GetLittle<uint64_t>(bytes.data() + 8);
  const uint64_t gone_runs = GetLittle<uint64_t>(bytes.data() + 16);
  if (pages > max_pages) {
    return absl::ResourceExhaustedError(
        absl::StrCat("manifest of ", pages, " pages, this machine takes ", max_pages));
  }
  if (gone_runs > (bytes.size() - kManifestHeaderBytes) / kMinRunBytes) {
    return RunDecoder::Damaged("too many runs");
  }
  PageDelta delta;
  delta.gone.resize(gone_runs);
  RunDecoder decoder(bytes, kManifestHeaderBytes);
  RunKind kind;
  for (SpaceRange& run : delta.gone) {
    INCR_RETURN_IF_ERROR(decoder.Next(&kind, &run));
    if (kind != kGone) return RunDecoder::Damaged("a written run among the gone ones");
  }
  decoder.Restart();
  while (!decoder.done()) {
    SpaceRange run;
    INCR_RETURN_IF_ERROR(decoder.Next(&kind, &run));
    if (kind != kBodies && kind != kZeroPages) return RunDecoder::Damaged("unknown run");
    if (run.range.count > pages - delta.written.size()) {
      return RunDecoder::Damaged("more pages than its header says");
    }
    const char* ids = kind == kBodies ? decoder.Ids(run.range.count) : nullptr;
    if (kind == kBodies && ids == nullptr) return RunDecoder::Damaged("ends within ids");
    for (uint64_t i = 0; i < run.range.count; ++i) {
      PageId id;
      if (kind == kBodies) {
        id = {GetLittle<uint64_t>(ids + i * kIdBytes), GetLittle<uint64_t>(ids + i * kIdBytes + 8)};
      }
      delta.written.push_back({run.space, run.range.first + i, id});
    }
  }
  if (delta.written.size() != pages) return RunDecoder::Damaged("fewer pages than its header says");
  return delta;
}

}  // namespace incr
