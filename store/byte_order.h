// byte_order.h — integers in the store's files: little-endian in records, big-endian in
// keys (so that they sort as numbers). Thread-safe.
#ifndef INCR_CKPT_STORE_BYTE_ORDER_H_
#define INCR_CKPT_STORE_BYTE_ORDER_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

namespace incr {

static_assert(std::endian::native == std::endian::little, "x86-64 only");

template <typename T>
void PutLittle(void* to, std::type_identity_t<T> value) {
  static_assert(std::is_unsigned_v<T>);
  std::memcpy(to, &value, sizeof value);
}

template <typename T>
T GetLittle(const void* from) {
  static_assert(std::is_unsigned_v<T>);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void AppendLittle(std::string* out, std::type_identity_t<T> value) {
  static_assert(std::is_unsigned_v<T>);
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline void PutBig64(void* to, uint64_t value) {
  value = __builtin_bswap64(value);
  std::memcpy(to, &value, sizeof value);
}
inline uint64_t GetBig64(const void* from) { return __builtin_bswap64(GetLittle<uint64_t>(from)); }
inline void PutBig32(void* to, uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(to, &value, sizeof value);
}
inline uint32_t GetBig32(const void* from) { return __builtin_bswap32(GetLittle<uint32_t>(from)); }

}  // namespace incr

#endif  // INCR_CKPT_STORE_BYTE_ORDER_H_
