// kernel_abi.h — kernel definitions newer than the build machine's headers (Debian 12: Linux
// 6.1). Numbers and layouts as in the kernel's own uapi headers; each is left out
// where the system's headers have it.
#ifndef INCR_CKPT_PROCESS_KERNEL_ABI_H_
#define INCR_CKPT_PROCESS_KERNEL_ABI_H_

#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

// PAGEMAP_SCAN (6.7): ioctl on /proc/<pid>/pagemap.
#ifndef PAGEMAP_SCAN

#define PAGE_IS_WPALLOWED (1 << 0)   // registered with a userfaultfd that has WP_ASYNC
#define PAGE_IS_WRITTEN (1 << 1)     // not write-protected; means something only with WPALLOWED
#define PAGE_IS_FILE (1 << 2)        // page cache or shared memory, not an anonymous page
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)     // any other non-empty entry: swap, migration, marker
#define PAGE_IS_PFNZERO (1 << 5)
#define PAGE_IS_HUGE (1 << 6)
#define PAGE_IS_SOFT_DIRTY (1 << 7)

struct page_region {
  __u64 start;  // bytes
  __u64 end;    // bytes, exclusive
  __u64 categories;
};

#define PM_SCAN_WP_MATCHING (1 << 0)
#define PM_SCAN_CHECK_WPASYNC (1 << 1)

struct pm_scan_arg {
  __u64 size;
  __u64 flags;
  __u64 start;
  __u64 end;
  __u64 walk_end;
  __u64 vec;
  __u64 vec_len;
  __u64 max_pages;
  __u64 category_inverted;
  __u64 category_mask;
  __u64 category_anyof_mask;
  __u64 return_mask;
};

#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)

#endif  // PAGEMAP_SCAN

#ifndef PAGE_IS_GUARD
#define PAGE_IS_GUARD (1 << 8)  // 6.15: MADV_GUARD_INSTALL
#endif

// Bits of a /proc/<pid>/pagemap entry (never in a uapi header).
namespace incr {
inline constexpr unsigned long long kPagemapPresent = 1ull << 63;
inline constexpr unsigned long long kPagemapSwapped = 1ull << 62;  // or any marker
inline constexpr unsigned long long kPagemapFile = 1ull << 61;     // or shared memory
inline constexpr unsigned long long kPagemapGuard = 1ull << 58;    // 6.15
inline constexpr unsigned long long kPagemapUffdWp = 1ull << 57;
inline constexpr unsigned long long kPagemapSoftDirty = 1ull << 55;
inline constexpr unsigned long long kPagemapFrame = (1ull << 55) - 1;
// "Swap type" of PTE markers (guard, poison, uffd-wp on an empty entry): the last of 32.
inline constexpr unsigned kPagemapMarkerType = 31;
}  // namespace incr

// userfaultfd.
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)  // 6.4
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)  // 6.6
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)  // 6.7
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)  // 6.8
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

// madvise.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // 6.1
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102  // 6.13
#define MADV_GUARD_REMOVE 103
#endif

// ptrace: rseq of a thread (5.13).
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

#endif  // INCR_CKPT_PROCESS_KERNEL_ABI_H_
