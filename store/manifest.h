// manifest.h — the bytes of a manifest: a page delta as runs (drawn in docs/formats.md).
//
//   u32 magic, u32 version, u64 written pages, u64 gone runs, then the gone runs, then
//   the written runs. A run is three varints (count and kind, space, gap to the run before)
//   and, for pages that have a body, their ids.
//
// Pure; thread-safe. Decode takes any bytes.
#ifndef INCR_CKPT_STORE_MANIFEST_H_
#define INCR_CKPT_STORE_MANIFEST_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/page_delta.h"

namespace incr {

inline constexpr uint32_t kManifestMagic = 0x314e414d;  // "MAN1"
inline constexpr uint32_t kManifestVersion = 1;
inline constexpr size_t kManifestHeaderBytes = 24;
inline constexpr uint64_t kMaxPageNumber = uint64_t{1} << 52;
inline constexpr uint64_t kMaxManifestBytes = uint64_t{1} << 33;

std::string EncodeManifest(const PageDelta& delta);

// kDataLoss says what is wrong; kResourceExhausted above `max_pages`: a run of zero pages is a few
// bytes but any number of entries.
absl::StatusOr<PageDelta> DecodeManifest(absl::string_view bytes, uint64_t max_pages);

}  // namespace incr

#endif  // INCR_CKPT_STORE_MANIFEST_H_
