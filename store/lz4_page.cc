#include "store/lz4_page.h"

#include <lz4.h>

#include "base/page_range.h"

namespace incr {

size_t CompressPage(const uint8_t* page, uint8_t* to) {
  const int size =
      LZ4_compress_default(reinterpret_cast<const char*>(page), reinterpret_cast<char*>(to),
                           static_cast<int>(kPageSize), static_cast<int>(kMaxCompressedPage));
  return size > 0 ? size : 0;
}

bool DecompressPage(const uint8_t* body, size_t size, uint8_t* page) {
  if (size > kMaxCompressedPage) return false;
  const int n =
      LZ4_decompress_safe(reinterpret_cast<const char*>(body), reinterpret_cast<char*>(page),
                          static_cast<int>(size), static_cast<int>(kPageSize));
  return n == static_cast<int>(kPageSize);
}

}  // namespace incr
