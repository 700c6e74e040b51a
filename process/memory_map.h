// memory_map.h — the mappings (VMAs) of a process and what of each one is ours to save.
// Parsing is pure; reading is thread-safe.
#ifndef INCR_CKPT_PROCESS_MEMORY_MAP_H_
#define INCR_CKPT_PROCESS_MEMORY_MAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/page_range.h"
#include "process/process_handle.h"

namespace incr {

// How a mapping's bytes get into an epoch.
enum class MappingClass {
  kPrivateAnonymous,   // background content zero; every populated page counts
  kPrivateFile,        // background content the file; only pages of the process's own (not PAGE_IS_FILE) count
  kSharedWritable,     // others may write it unseen: content is compared, the whole object within the mapping counts
  kSharedReadOnly,     // never may be written through this mapping (no VM_MAYWRITE or PROT_WRITE) and is a named file: not saved
  kKernelOwned,        // [vdso] [vvar] [vvar_vclock] [vsyscall]: not saved
};

struct MemoryMapping {
  uint64_t start = 0, end = 0;  // bytes, end exclusive
  uint32_t prot = 0;            // PROT_*
  bool shared = false;
  uint64_t offset = 0;  // bytes
  uint32_t dev_major = 0, dev_minor = 0;
  uint64_t inode = 0;
  std::string name;  // as in maps, "\012" unescaped; may end in " (deleted)"
  // From smaps VmFlags ("rd wr mr mw me gd ..."), if has_vm_flags.
  bool has_vm_flags = false;
  std::string vm_flags;

  PageRange pages() const { return {start / kPageSize, (end - start) / kPageSize}; }
  bool HasFlag(absl::string_view two_letters) const;
  bool is_file() const { return inode != 0; }
  bool operator==(const MemoryMapping&) const = default;
  bool SameButFlags(const MemoryMapping& other) const;  // all but the VmFlags
};

using MemoryMap = std::vector<MemoryMapping>;  // by address

// Errors name the line. [vsyscall] is included. Overlapping lines (the file of a running process
// is not read in one instant): the later one stays.
absl::StatusOr<MemoryMap> ParseMaps(absl::string_view text);
absl::StatusOr<MemoryMap> ParseSmaps(absl::string_view text);

// Of a running target a map may mix two moments: sorted and without overlaps, but perhaps with a
// mapping that is gone and without one that is new. Of a stopped target it is exact.
// /proc/<pid>/maps: no page-table walk, fit for a freeze.
absl::StatusOr<MemoryMap> ReadMaps(const ProcessHandle& process);
// /proc/<pid>/smaps: has VmFlags but walks every page table (about 10 ms per GiB).
absl::StatusOr<MemoryMap> ReadSmaps(const ProcessHandle& process);
// Only mappings that begin below `address`; those above are not walked.
absl::StatusOr<MemoryMap> ReadSmapsBelow(const ProcessHandle& process, uint64_t address);

MappingClass ClassifyMapping(const MemoryMapping& mapping);

// MAP_SHARED | MAP_ANONYMOUS, or /dev/zero mapped shared.
bool IsSharedAnonymous(const MemoryMapping& mapping);

// Page-aligned: where a mapping that comes and goes merges with no other and is in nobody's way. 0: there
// are not two mappings.
uint64_t MiddleOfWidestGap(const MemoryMap& map);

// OK, or why a mapping cannot be saved (hugetlbfs, device memory, SysV shm, [aio], io_uring, a
// deleted file other than shared anonymous memory), naming range and name.
absl::Status CheckMappingSupported(const MemoryMapping& mapping);

// The shared, writable object behind a mapping, opened through
// /proc/<pid>/map_files: reads do not populate holes and see swapped pages. Needs CAP_SYS_ADMIN
// or CAP_CHECKPOINT_RESTORE.
// `mapping` may have merged with a neighbour since it was read.
absl::StatusOr<ScopedFd> OpenMappedObject(const ProcessHandle& process,
                                          const MemoryMapping& mapping);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_MEMORY_MAP_H_
