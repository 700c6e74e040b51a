// hashing.h — page ids as the store makes them, for everybody who is compared with it.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_HASHING_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_HASHING_H_

#include <cstddef>
#include <string>

#include "store/page_id.h"

namespace incr::store_speed {

// Under a secret that every run shares.
inline PageHasher BenchmarkHasher() {
  std::string secret(192, '\0');
  for (size_t i = 0; i < secret.size(); ++i) secret[i] = static_cast<char>(i * 37 + 11);
  return PageHasher(secret);
}

struct IdHash {
  size_t operator()(const PageId& id) const { return id.low; }
};

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_HASHING_H_
