#include "tracker/page_hashes.h"

#define XXH_INLINE_ALL
#include <sys/random.h>
#include <xxhash.h>

#include "base/status.h"

namespace incr {

RandomPageHasher::RandomPageHasher() : secret_(XXH3_SECRET_DEFAULT_SIZE, '\0') {
  // getrandom() of up to 256 bytes neither fails nor falls short once seeded.
  const ssize_t n = ::getrandom(secret_.data(), secret_.size(), 0);
  INCR_CHECK(n == static_cast<ssize_t>(secret_.size()));
}

PageHash RandomPageHasher::Hash(const uint8_t* page) const {
  const XXH128_hash_t hash =
      XXH3_128bits_withSecret(page, kPageSize, secret_.data(), secret_.size());
  return {hash.low64, hash.high64};
}

}  // namespace incr
