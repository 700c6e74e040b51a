// varint.h — numbers of 7 bits a byte, the lowest first, each byte but the last with its top bit set: in manifests, and in
// RocksDB's table files. Thread-safe.
#ifndef INCR_CKPT_STORE_VARINT_H_
#define INCR_CKPT_STORE_VARINT_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace incr {

inline void AppendVarint(std::string* out, uint64_t value) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

// Takes one from the front. False: `in` ends within it, or it has more than 63 bits; `in` is then anywhere.
inline bool TakeVarint(absl::string_view* in, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 63 && !in->empty(); shift += 7) {
    const uint8_t byte = in->front();
    in->remove_prefix(1);
    *value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

}  // namespace incr

#endif  // INCR_CKPT_STORE_VARINT_H_
