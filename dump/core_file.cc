#include "dump/core_file.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/page_range.h"
#include "base/status.h"
#include "dump/core_notes.h"
#include "dump/sparse_writer.h"

namespace incr {
namespace {

constexpr uint64_t kLongZeros = 1u << 20;  // worth a segment of their own, which has no room in the file

struct Segment {
  const pb::Mapping* mapping = nullptr;
  std::vector<MemoryRun> runs;  // empty: no content
  uint64_t start = 0, end = 0;
  uint64_t offset = 0;  // in the file
  uint64_t file_bytes() const { return runs.empty() ? 0 : end - start; }
};

bool InCore(const MemoryRun& run) {
  switch (run.from) {
    case MemoryRun::From::kZeros:
      return run.end - run.start < kLongZeros;
    case MemoryRun::From::kStore:
    case MemoryRun::From::kVdso:
      return true;
    default:
      return false;
  }
}

// The page with the ELF header, which has the build id, comes with the core.
std::vector<MemoryRun> WithHeaderApart(const pb::Mapping& mapping, std::vector<MemoryRun> runs) {
  if (mapping.kind() != pb::Mapping::PRIVATE_FILE || mapping.offset() != 0) return runs;
  MemoryRun& first = runs[0];
  if (first.from != MemoryRun::From::kFile || first.end - first.start == kPageSize) return runs;
  MemoryRun header = first;
  header.end = first.start += kPageSize;
  runs.insert(runs.begin(), std::move(header));
  return runs;
}

absl::StatusOr<bool> IsElf(const EpochMemory& memory, const pb::Mapping& mapping, const MemoryRun& run) {
  bool elf = false;
  INCR_RETURN_IF_ERROR(memory.Read(mapping, run, run.start, run.end, [&](uint64_t, absl::string_view bytes) {
    elf = absl::StartsWith(bytes, ELFMAG);
    return absl::OkStatus();
  }));
  return elf;
}

// `warnings`: what is not to be had, once for each reason.
absl::StatusOr<std::vector<Segment>> PlanSegments(const EpochMemory& memory, std::vector<std::string>* warnings) {
  std::vector<Segment> segments;
  std::set<std::string> said;
  for (const pb::Mapping& mapping : memory.process().mappings()) {
    if (mapping.kind() == pb::Mapping::VVAR || mapping.kind() == pb::Mapping::VSYSCALL) continue;
    bool joins = false;
    for (MemoryRun& run : WithHeaderApart(mapping, memory.Runs(mapping))) {
      if (run.from == MemoryRun::From::kNowhere && said.insert(run.why).second) {
        warnings->push_back(absl::StrCat("memory at 0x", absl::Hex(run.start), "-0x", absl::Hex(run.end),
                                         " is not in the core: ", run.why));
      }
      bool in_core = InCore(run);
      if (run.from == MemoryRun::From::kFile && run.start == mapping.start() && mapping.offset() == 0 &&
          run.end - run.start == kPageSize) {
        INCR_ASSIGN_OR_RETURN(in_core, IsElf(memory, mapping, run));
      }
      if (!joins || segments.back().runs.empty() == in_core) {
        segments.push_back({&mapping, {}, run.start, run.start});
        joins = true;
      }
      segments.back().end = run.end;
      if (in_core) segments.back().runs.push_back(std::move(run));
    }
  }
  return segments;
}

uint32_t FlagsOf(const pb::Mapping& mapping) {
  return (mapping.prot() & PROT_READ ? PF_R : 0) | (mapping.prot() & PROT_WRITE ? PF_W : 0) |
         (mapping.prot() & PROT_EXEC ? PF_X : 0);
}

uint64_t PageUp(uint64_t n) { return (n + kPageSize - 1) / kPageSize * kPageSize; }

template <typename T>
void Put(const T& value, std::string* to) {
  to->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// The headers and notes; sets the segments' offsets.
std::string Headers(const std::string& notes, std::vector<Segment>* segments) {
  const size_t count = segments->size() + 1;
  const bool many = count >= PN_XNUM;  // Then the number stands in a section header.
  const uint64_t notes_at = sizeof(Elf64_Ehdr) + count * sizeof(Elf64_Phdr) + (many ? sizeof(Elf64_Shdr) : 0);
  uint64_t at = PageUp(notes_at + notes.size());
  for (Segment& segment : *segments) {
    segment.offset = at;
    at += segment.file_bytes();
  }

  Elf64_Ehdr elf{};
  std::memcpy(elf.e_ident, ELFMAG, SELFMAG);
  elf.e_ident[EI_CLASS] = ELFCLASS64;
  elf.e_ident[EI_DATA] = ELFDATA2LSB;
  elf.e_ident[EI_VERSION] = EV_CURRENT;
  elf.e_type = ET_CORE;
  elf.e_machine = EM_X86_64;
  elf.e_version = EV_CURRENT;
  elf.e_phoff = sizeof elf;
  elf.e_ehsize = sizeof elf;
  elf.e_phentsize = sizeof(Elf64_Phdr);
  elf.e_phnum = static_cast<Elf64_Half>(many ? PN_XNUM : count);
  if (many) {
    elf.e_shoff = sizeof elf + count * sizeof(Elf64_Phdr);
    elf.e_shentsize = sizeof(Elf64_Shdr);
    elf.e_shnum = 1;
  }
  std::string bytes;
  Put(elf, &bytes);
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = notes_at;
  note.p_filesz = notes.size();
  note.p_align = 4;
  Put(note, &bytes);
  for (const Segment& segment : *segments) {
    Elf64_Phdr load{};
    load.p_type = PT_LOAD;
    load.p_flags = FlagsOf(*segment.mapping);
    load.p_offset = segment.offset;
    load.p_vaddr = segment.start;
    load.p_filesz = segment.file_bytes();
    load.p_memsz = segment.end - segment.start;
    load.p_align = kPageSize;
    Put(load, &bytes);
  }
  if (many) {
    Elf64_Shdr section{};
    section.sh_info = static_cast<Elf64_Word>(count);
    Put(section, &bytes);
  }
  return bytes + notes;
}

}  // namespace

absl::StatusOr<CoreResult> WriteCore(const EpochMemory& memory, int fd, const std::string& name,
                                     absl::FunctionRef<void(uint64_t, uint64_t)> progress) {
  CoreResult result;
  INCR_ASSIGN_OR_RETURN(std::vector<Segment> segments, PlanSegments(memory, &result.warnings));
  result.threads = static_cast<uint64_t>(memory.process().threads_size());
  result.segments = segments.size();
  SparseWriter writer(fd, name);
  INCR_RETURN_IF_ERROR(writer.Append(Headers(CoreNotes(memory.process()), &segments)));
  const uint64_t total = segments.empty() ? writer.offset() : segments.back().offset + segments.back().file_bytes();
  for (const Segment& segment : segments) {
    for (const MemoryRun& run : segment.runs) {
      INCR_RETURN_IF_ERROR(memory.Read(*segment.mapping, run, run.start, run.end,
                                       [&](uint64_t address, absl::string_view bytes) {
                                         INCR_RETURN_IF_ERROR(writer.PadTo(segment.offset + (address - segment.start)));
                                         INCR_RETURN_IF_ERROR(writer.Append(bytes));
                                         progress(writer.offset(), total);
                                         return absl::OkStatus();
                                       }));
    }
  }
  INCR_RETURN_IF_ERROR(writer.PadTo(total));
  INCR_RETURN_IF_ERROR(writer.Finish());
  result.bytes = writer.offset();
  result.bytes_written = writer.written();
  return result;
}

}  // namespace incr
