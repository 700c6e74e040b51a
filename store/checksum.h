// checksum.h — guards our own records against damage (not against an adversary).
// Thread-safe.
#ifndef INCR_CKPT_STORE_CHECKSUM_H_
#define INCR_CKPT_STORE_CHECKSUM_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace incr {

// XXH3-64, seed 0.
uint64_t Checksum64(const void* data, size_t size);
inline uint64_t Checksum64(absl::string_view data) { return Checksum64(data.data(), data.size()); }

}  // namespace incr

#endif  // INCR_CKPT_STORE_CHECKSUM_H_
