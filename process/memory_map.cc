#include "process/memory_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr absl::string_view kDeleted = " (deleted)";

absl::Status BadLine(absl::string_view line) {
  return absl::InvalidArgumentError(
      absl::StrCat("maps: cannot read the line \"", absl::CHexEscape(line.substr(0, 256)), "\""));
}

// Takes a number in `base` off the front of `text`; it ends at `terminator`.
bool TakeNumber(absl::string_view* text, int base, char terminator, uint64_t* value) {
  const size_t end = text->find(terminator);
  if (end == absl::string_view::npos || end == 0 || !absl::ascii_isxdigit((*text)[0])) return false;
  const absl::string_view digits = text->substr(0, end);
  if (base == 16 ? !absl::SimpleHexAtoi(digits, value) : !absl::SimpleAtoi(digits, value)) {
    return false;
  }
  text->remove_prefix(end + 1);
  return true;
}

bool ParsePermissions(absl::string_view text, MemoryMapping* mapping) {
  constexpr absl::string_view kLetters = "rwx";
  constexpr uint32_t kBits[] = {PROT_READ, PROT_WRITE, PROT_EXEC};
  for (int i = 0; i < 3; ++i) {
    if (text[i] == kLetters[i]) {
      mapping->prot |= kBits[i];
    } else if (text[i] != '-') {
      return false;
    }
  }
  mapping->shared = text[3] == 's';
  return text[3] == 's' || text[3] == 'p';
}

// "7f12e000-7f12f000 rw-p 00001000 fe:01 332383      /a/name"
absl::StatusOr<MemoryMapping> ParseLine(absl::string_view line) {
  MemoryMapping mapping;
  absl::string_view rest = line;
  uint64_t major = 0, minor = 0;
  if (!TakeNumber(&rest, 16, '-', &mapping.start) || !TakeNumber(&rest, 16, ' ', &mapping.end) ||
      rest.size() < 5 || rest[4] != ' ' || !ParsePermissions(rest, &mapping)) {
    return BadLine(line);
  }
  rest.remove_prefix(5);
  if (!TakeNumber(&rest, 16, ' ', &mapping.offset) || !TakeNumber(&rest, 16, ':', &major) ||
      !TakeNumber(&rest, 16, ' ', &minor) || major > UINT32_MAX || minor > UINT32_MAX) {
    return BadLine(line);
  }
  mapping.dev_major = major;
  mapping.dev_minor = minor;
  // A mapping without a name may end right after the inode.
  const size_t inode_end = std::min(rest.find(' '), rest.size());
  if (!absl::SimpleAtoi(rest.substr(0, inode_end), &mapping.inode)) return BadLine(line);
  rest.remove_prefix(inode_end);
  rest = absl::StripLeadingAsciiWhitespace(rest);  // Padding; no name starts with a space.
  // The kernel escapes newlines and nothing else, not even the backslash.
  mapping.name = absl::StrReplaceAll(rest, {{"\\012", "\n"}});
  if (mapping.start >= mapping.end || mapping.start % kPageSize != 0 ||
      mapping.end % kPageSize != 0) {
    return BadLine(line);
  }
  return mapping;
}

// Every other line of smaps starts with a capital letter.
bool IsMappingLine(absl::string_view line) {
  return !line.empty() && (absl::ascii_isdigit(line[0]) || absl::ascii_islower(line[0]));
}

absl::Status Append(absl::string_view line, MemoryMap* map) {
  INCR_ASSIGN_OR_RETURN(MemoryMapping mapping, ParseLine(line));
  // A running process changes its map between two read()s of the file: the later word holds.
  while (!map->empty() && mapping.start < map->back().end) map->pop_back();
  map->push_back(std::move(mapping));
  return absl::OkStatus();
}

bool IsSysVSharedMemory(const MemoryMapping& mapping) {
  return mapping.shared && absl::StartsWith(mapping.name, "/SYSV") &&
         absl::EndsWith(mapping.name, kDeleted) && mapping.name.size() == 5 + 8 + kDeleted.size();
}

// A file that stays what it is without the process.
bool HasNamedFile(const MemoryMapping& mapping) {
  return mapping.is_file() && absl::StartsWith(mapping.name, "/") &&
         !absl::EndsWith(mapping.name, kDeleted);
}

// Why it cannot be saved, or "".
absl::string_view Unsupported(const MemoryMapping& mapping) {
  const absl::string_view name = mapping.name;
  if (mapping.HasFlag("ht") || absl::StartsWith(name, "/anon_hugepage") ||
      absl::StartsWith(name, "/dev/hugepages/")) {
    return "memory of hugetlbfs";
  }
  if (name == "/[aio] (deleted)" || name == "[aio]") return "a ring of asynchronous I/O (io_setup)";
  if (absl::StrContains(name, "[io_uring]")) return "a ring of io_uring";
  if (mapping.HasFlag("io") || mapping.HasFlag("pf")) return "device memory";
  if (mapping.HasFlag("ss")) return "a shadow stack";
  if (name == "[uprobes]") return "a page of the kernel's uprobes";
  if (absl::StartsWith(name, "anon_inode:")) return "memory of a kernel object";
  if (absl::StartsWith(name, "socket:")) return "a socket's ring";
  if (absl::StartsWith(name, "/dev/") && !absl::StartsWith(name, "/dev/zero") &&
      !absl::StartsWith(name, "/dev/shm/")) {
    return "device memory";
  }
  if (IsSharedAnonymous(mapping)) return "";
  if (IsSysVSharedMemory(mapping)) return "System V shared memory";
  if (absl::StartsWith(name, "/memfd:")) return "a memfd";
  if (absl::EndsWith(name, kDeleted)) return "a deleted file";
  return "";
}

// Looks at the lines of `text` (of smaps) from offset `*line` on; true, and cut there, at a mapping that
// begins at `address` or above.
bool CutAt(uint64_t address, size_t* line, std::string* text) {
  for (size_t end; (end = text->find('\n', *line)) != std::string::npos; *line = end + 1) {
    const absl::string_view whole = absl::string_view(*text).substr(*line, end - *line);
    if (!IsMappingLine(whole)) continue;
    const absl::StatusOr<MemoryMapping> mapping = ParseLine(whole);
    if (!mapping.ok() || mapping->start < address) continue;  // ParseSmaps will say what is wrong.
    text->resize(*line);
    return true;
  }
  return false;
}

}  // namespace

uint64_t MiddleOfWidestGap(const MemoryMap& map) {
  constexpr uint64_t kUserSpaceEnd = uint64_t{1} << 47;  // [vsyscall] is beyond
  uint64_t widest = 0, middle = 0;
  for (size_t i = 1; i < map.size() && map[i].start < kUserSpaceEnd; ++i) {
    const uint64_t gap = map[i].start - map[i - 1].end;
    if (gap <= widest) continue;
    widest = gap;
    middle = (map[i - 1].end + gap / 2) / kPageSize * kPageSize;
  }
  return middle;
}

bool MemoryMapping::SameButFlags(const MemoryMapping& other) const {
  return start == other.start && end == other.end && prot == other.prot &&
         shared == other.shared && offset == other.offset && dev_major == other.dev_major &&
         dev_minor == other.dev_minor && inode == other.inode && name == other.name;
}

bool MemoryMapping::HasFlag(absl::string_view two_letters) const {
  if (!has_vm_flags) return false;
  for (absl::string_view flag : absl::StrSplit(vm_flags, ' ')) {
    if (flag == two_letters) return true;
  }
  return false;
}

absl::StatusOr<MemoryMap> ParseMaps(absl::string_view text) {
  MemoryMap map;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    INCR_RETURN_IF_ERROR(Append(line, &map));
  }
  return map;
}

absl::StatusOr<MemoryMap> ParseSmaps(absl::string_view text) {
  MemoryMap map;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (IsMappingLine(line)) {
      INCR_RETURN_IF_ERROR(Append(line, &map));
      continue;
    }
    if (map.empty() || !absl::StrContains(line, ':')) return BadLine(line);
    if (!absl::ConsumePrefix(&line, "VmFlags:")) continue;
    map.back().has_vm_flags = true;
    map.back().vm_flags = std::string(absl::StripAsciiWhitespace(line));
  }
  return map;
}

absl::StatusOr<MemoryMap> ReadMaps(const ProcessHandle& process) {
  const std::string path = process.ProcPath("maps");
  INCR_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(path));
  absl::StatusOr<MemoryMap> map = ParseMaps(text);
  if (!map.ok()) return Annotate(map.status(), path);
  return map;
}

absl::StatusOr<MemoryMap> ReadSmaps(const ProcessHandle& process) {
  const std::string path = process.ProcPath("smaps");
  INCR_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(path, 512u << 20));
  absl::StatusOr<MemoryMap> map = ParseSmaps(text);
  if (!map.ok()) return Annotate(map.status(), path);
  return map;
}

absl::StatusOr<MemoryMap> ReadSmapsBelow(const ProcessHandle& process, uint64_t address) {
  const std::string path = process.ProcPath("smaps");
  INCR_ASSIGN_OR_RETURN(const ScopedFd fd, OpenFile(path, O_RDONLY));
  std::string text;
  size_t line = 0;  // offset of the first one not looked at
  for (;;) {
    // Less than a mapping's text: the kernel walks mappings until it has what was asked for.
    char part[512];
    const ssize_t n = ::read(fd.get(), part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("read(", path, ")"));
    if (n == 0) break;
    text.append(part, n);
    if (CutAt(address, &line, &text)) break;
  }
  absl::StatusOr<MemoryMap> map = ParseSmaps(text);
  if (!map.ok()) return Annotate(map.status(), path);
  return map;
}

bool IsSharedAnonymous(const MemoryMapping& mapping) {
  return mapping.shared && (mapping.name == "/dev/zero (deleted)" ||
                            absl::StartsWith(mapping.name, "[anon_shmem:"));
}

MappingClass ClassifyMapping(const MemoryMapping& mapping) {
  if (!mapping.is_file()) {
    for (absl::string_view name : {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"}) {
      if (mapping.name == name) return MappingClass::kKernelOwned;
    }
  }
  if (!mapping.shared) {
    // Of /dev/zero: the kernel makes plain anonymous memory of it and keeps only the name.
    if (mapping.name == "/dev/zero") return MappingClass::kPrivateAnonymous;
    return mapping.is_file() ? MappingClass::kPrivateFile : MappingClass::kPrivateAnonymous;
  }
  // Shared memory without a file has its bytes nowhere else, whatever its protection is now.
  if (!HasNamedFile(mapping)) return MappingClass::kSharedWritable;
  // A file mapping that cannot be written at this moment may have been written before an
  // mprotect: those bytes are in the file, and the file's identity is checked at restore.
  const bool writable =
      mapping.has_vm_flags ? mapping.HasFlag("mw") : (mapping.prot & PROT_WRITE) != 0;
  return writable ? MappingClass::kSharedWritable : MappingClass::kSharedReadOnly;
}

absl::Status CheckMappingSupported(const MemoryMapping& mapping) {
  if (ClassifyMapping(mapping) == MappingClass::kKernelOwned && mapping.name != "[uprobes]") {
    return absl::OkStatus();
  }
  const absl::string_view reason = Unsupported(mapping);
  if (reason.empty()) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrFormat("mapping %x-%x %s: %s cannot be saved yet",
                                                  mapping.start, mapping.end, mapping.name,
                                                  reason));
}

absl::StatusOr<ScopedFd> OpenMappedObject(const ProcessHandle& process,
                                          const MemoryMapping& mapping) {
  const auto open = [&process](const MemoryMapping& m) {
    return OpenFile(process.ProcPath(absl::StrFormat("map_files/%x-%x", m.start, m.end)), O_RDONLY);
  };
  absl::StatusOr<ScopedFd> exact = open(mapping);
  if (!absl::IsNotFound(exact.status())) return exact;
  // Mappings merge even while the target is stopped: when both have become registered with the
  // same userfaultfd.
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(process));
  for (const MemoryMapping& now : map) {
    if (now.start <= mapping.start && mapping.start < now.end && now.inode == mapping.inode &&
        now.dev_major == mapping.dev_major && now.dev_minor == mapping.dev_minor &&
        now.shared == mapping.shared) {
      return open(now);
    }
  }
  return exact;
}

}  // namespace incr
