// vdso_hash.h — Machine.vdso_hash of the image: XXH3-64 with seed 0. Pure.
#ifndef INCR_CKPT_CHECKPOINT_VDSO_HASH_H_
#define INCR_CKPT_CHECKPOINT_VDSO_HASH_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace incr {

uint64_t VdsoHash(absl::string_view vdso);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_VDSO_HASH_H_
