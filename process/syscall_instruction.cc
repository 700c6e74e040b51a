// Find- and ConfirmSyscallInstruction of remote_syscalls.h.
#include <elf.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "process/remote_syscalls.h"

namespace incr {
namespace {

// PROCMAP_QUERY of linux/fs.h (6.11): one mapping without formatting all of them, which in a
// process of 500 mappings is 2 us instead of 300.
struct ProcmapQuery {
  uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset,
      inode;
  uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
  uint64_t vma_name_addr, build_id_addr;
};
constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
constexpr uint64_t kVmaExecutable = 4;

struct CodeRange {
  uint64_t start, end;
  bool vdso;
};

std::optional<RemoteAddr> FindIn(const RemoteMemory& memory, const CodeRange& range) {
  constexpr uint64_t kChunk = 64 * kPageSize;
  std::vector<char> bytes(std::min(kChunk, range.end - range.start));
  for (uint64_t at = range.start; at < range.end; at += kChunk) {
    const size_t size = std::min(kChunk, range.end - at);
    if (!memory.Read(RemoteAddr(at), bytes.data(), size).ok()) return std::nullopt;
    const size_t found = absl::string_view(bytes.data(), size).find("\x0f\x05");
    if (found != absl::string_view::npos) return RemoteAddr(at + found);
  }
  return std::nullopt;
}

// Where the auxiliary vector says the vdso is, if executable memory is there.
std::optional<CodeRange> VdsoByAuxv(const ProcessHandle& process) {
  const auto auxv = ReadWholeFile(process.ProcPath("auxv"));
  if (!auxv.ok()) return std::nullopt;
  ProcmapQuery query{};
  query.size = sizeof query;
  for (size_t at = 0; at + sizeof(Elf64_auxv_t) <= auxv->size(); at += sizeof(Elf64_auxv_t)) {
    Elf64_auxv_t entry;
    std::memcpy(&entry, auxv->data() + at, sizeof entry);
    if (entry.a_type == AT_SYSINFO_EHDR) query.query_addr = entry.a_un.a_val;
  }
  const auto maps = OpenFile(process.ProcPath("maps"), O_RDONLY);
  if (query.query_addr == 0 || !maps.ok() || ioctl(maps->get(), kProcmapQuery, &query) != 0 ||
      (query.vma_flags & kVmaExecutable) == 0) {
    return std::nullopt;
  }
  return CodeRange{query.vma_start, query.vma_end, true};
}

// All executable mappings, the vdso first.
absl::StatusOr<std::vector<CodeRange>> ListCode(const ProcessHandle& process) {
  INCR_ASSIGN_OR_RETURN(const std::string maps, ReadWholeFile(process.ProcPath("maps")));
  std::vector<CodeRange> ranges;
  for (const absl::string_view line : absl::StrSplit(maps, '\n')) {
    unsigned long start, end;
    char mode[5] = "";
    if (std::sscanf(std::string(line).c_str(), "%lx-%lx %4s", &start, &end, mode) != 3) continue;
    // [vsyscall] is only emulated; a jump into it is a fault.
    if (mode[2] != 'x' || absl::EndsWith(line, "[vsyscall]")) continue;
    ranges.push_back({start, end, absl::EndsWith(line, "[vdso]")});
  }
  std::stable_partition(ranges.begin(), ranges.end(), [](const CodeRange& r) { return r.vdso; });
  return ranges;
}

}  // namespace

absl::StatusOr<RemoteAddr> FindSyscallInstruction(const ProcessHandle& process) {
  INCR_ASSIGN_OR_RETURN(const RemoteMemory memory, RemoteMemory::Open(process, false));
  if (const auto vdso = VdsoByAuxv(process)) {
    if (const auto found = FindIn(memory, *vdso)) return *found;
  }
  INCR_ASSIGN_OR_RETURN(const std::vector<CodeRange> ranges, ListCode(process));
  for (const CodeRange& range : ranges) {
    if (const auto found = FindIn(memory, range)) return *found;
  }
  return absl::NotFoundError(
      absl::StrCat("pid ", process.pid(), " has no system call instruction anywhere"));
}

absl::StatusOr<RemoteAddr> ConfirmSyscallInstruction(const ProcessHandle& process,
                                                     const RemoteMemory& memory,
                                                     std::optional<RemoteAddr> hint) {
  unsigned char bytes[2] = {};
  if (hint && memory.Read(*hint, bytes, sizeof bytes).ok() && bytes[0] == 0x0f &&
      bytes[1] == 0x05) {
    return *hint;
  }
  return FindSyscallInstruction(process);
}

}  // namespace incr
