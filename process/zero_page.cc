#include "process/zero_page.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstdint>

#include "base/file.h"
#include "base/page_range.h"

namespace incr {

bool KernelMapsZeroPage() {
  constexpr uint64_t kFrame = (uint64_t{1} << 55) - 1;  // pagemap(5)
  void* mapped = mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return true;
  madvise(mapped, 2 * kPageSize, MADV_NOHUGEPAGE);
  volatile char* page = static_cast<char*>(mapped);
  (void)page[0];
  (void)page[kPageSize];
  uint64_t entries[2] = {};
  const auto pagemap = OpenFile("/proc/self/pagemap", O_RDONLY);
  const bool read =
      pagemap.ok() && PreadExactly(pagemap->get(), entries, sizeof entries,
                                   reinterpret_cast<uint64_t>(mapped) / kPageSize * sizeof(uint64_t),
                                   "pagemap")
                          .ok();
  munmap(mapped, 2 * kPageSize);
  return !read || (entries[0] & kFrame) == (entries[1] & kFrame);
}

}  // namespace incr
