// The only file that includes zstd.
#include "store/zstd_page.h"

#include <zstd.h>

#include <memory>

#include "base/page_range.h"

namespace incr {
namespace {

constexpr int kLevel = 3;  // level 9 took 4 times as long and gained 3 %

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

}  // namespace

size_t CompressZstdPage(const uint8_t* page, uint8_t* to, size_t room) {
  // A context is half a megabyte to set up: one per thread.
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  if (context == nullptr || room == 0) return 0;
  const size_t size = ZSTD_compressCCtx(context.get(), to, room - 1, page, kPageSize, kLevel);
  return ZSTD_isError(size) ? 0 : size;
}

bool DecompressZstdPage(const uint8_t* body, size_t size, uint8_t* page) {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  if (context == nullptr) return false;
  const size_t n = ZSTD_decompressDCtx(context.get(), page, kPageSize, body, size);
  return !ZSTD_isError(n) && n == kPageSize;
}

}  // namespace incr
