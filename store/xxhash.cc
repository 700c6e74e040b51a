// The only file that includes xxHash. Inlined: Debian's XXH3_*_dispatch leaves the AVX-512
// upper state dirty, and SSE code after it ran 4x slower until a vzeroupper.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <utility>

#include "base/page_range.h"
#include "base/status.h"
#include "store/checksum.h"
#include "store/page_id.h"

namespace incr {

uint64_t Checksum64(const void* data, size_t size) { return XXH3_64bits(data, size); }

PageHasher::PageHasher(std::string secret) : secret_(std::move(secret)) {
  INCR_CHECK(secret_.size() >= XXH3_SECRET_SIZE_MIN);
}

PageId PageHasher::Hash(const uint8_t* page) const {
  const XXH128_hash_t hash =
      XXH3_128bits_withSecret(page, kPageSize, secret_.data(), secret_.size());
  PageId id{hash.high64, hash.low64};
  if (id.is_zero_page()) id.high = 1;
  return id;
}

bool PageHasher::IsZeroPage(const uint8_t* page) {
  // Most pages differ in their first bytes: look there before the whole page.
  uint64_t first[2];
  std::memcpy(first, page, sizeof first);
  if ((first[0] | first[1]) != 0) return false;
  return std::memcmp(page, page + sizeof first, kPageSize - sizeof first) == 0;
}

}  // namespace incr
