#include "checkpoint/vdso_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace incr {

uint64_t VdsoHash(absl::string_view vdso) { return XXH3_64bits(vdso.data(), vdso.size()); }

}  // namespace incr
