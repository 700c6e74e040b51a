// lz4_page.h — one page, compressed by itself: LZ4 over 64 KiB groups gained 7 % and broke
// single-page reads (design.md). Thread-safe.
#ifndef INCR_CKPT_STORE_LZ4_PAGE_H_
#define INCR_CKPT_STORE_LZ4_PAGE_H_

#include <cstddef>
#include <cstdint>

namespace incr {

// A body this long or longer is not worth its decompression: the page is kept raw.
inline constexpr size_t kMaxCompressedPage = 3968;

// Returns the compressed size, at most kMaxCompressedPage, or 0: keep the page raw.
// `to` has room for kMaxCompressedPage bytes and does not overlap `page`.
size_t CompressPage(const uint8_t* page, uint8_t* to);

// False unless `body` is LZ4 of exactly one page. Any bytes are safe.
bool DecompressPage(const uint8_t* body, size_t size, uint8_t* page);

}  // namespace incr

#endif  // INCR_CKPT_STORE_LZ4_PAGE_H_
