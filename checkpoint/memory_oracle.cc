#include "checkpoint/memory_oracle.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string_view>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/status.h"
#include "process/memory_map.h"
#include "process/remote_memory.h"
#include "proto/image.pb.h"

namespace incr {
namespace {

constexpr uint64_t kPresent = 1ull << 63;
constexpr uint64_t kSwapped = 1ull << 62;

uint64_t HashPage(const uint8_t* page) {
  return absl::HashOf(
      std::string_view(reinterpret_cast<const char*>(page), kPageSize));
}

bool Saved(MappingClass c) {
  return c == MappingClass::kPrivateAnonymous || c == MappingClass::kPrivateFile ||
         c == MappingClass::kSharedWritable;
}

absl::Status ReadMapping(const MemoryMapping& mapping, int pagemap, const RemoteMemory& memory,
                         OracleImage* oracle) {
  const PageRange range = mapping.pages();
  std::vector<uint64_t> entries(range.count);
  INCR_RETURN_IF_ERROR(PreadExactly(pagemap, entries.data(), range.count * 8, range.first * 8,
                                    "pagemap"));
  PageSet populated;
  for (uint64_t i = 0; i < range.count; ++i) {
    if ((entries[i] & (kPresent | kSwapped)) != 0) populated.Add({range.first + i, 1});
  }
  for (const PageRange& run : populated.runs()) {
    std::vector<uint8_t> bytes(run.count * kPageSize);
    PageSet unreadable;
    INCR_RETURN_IF_ERROR(memory.ReadPages({run}, bytes.data(), &unreadable));
    for (uint64_t i = 0; i < run.count; ++i) {
      if (unreadable.Contains(run.first + i)) continue;
      oracle->pages[run.first + i] = HashPage(bytes.data() + i * kPageSize);
    }
  }
  return absl::OkStatus();
}

// Others may hold pages of it that this process's page table lacks: the object is the truth.
absl::Status ReadShared(const ProcessHandle& process, const MemoryMapping& mapping,
                        OracleImage* oracle) {
  INCR_ASSIGN_OR_RETURN(ScopedFd object, OpenMappedObject(process, mapping));
  std::vector<uint8_t> page(kPageSize);
  for (uint64_t i = 0; i < mapping.pages().count; ++i) {
    std::fill(page.begin(), page.end(), 0);
    INCR_ASSIGN_OR_RETURN(size_t n, PreadUpTo(object.get(), page.data(), kPageSize,
                                              mapping.offset + i * kPageSize, mapping.name));
    if (n == 0) break;  // The object ends here.
    oracle->pages[mapping.pages().first + i] = HashPage(page.data());
  }
  return absl::OkStatus();
}

// The bytes that a page without an entry in the table comes back with.
class Background {
 public:
  explicit Background(const pb::Process& process) {
    for (const pb::Mapping& mapping : process.mappings()) by_start_[mapping.start()] = &mapping;
  }

  // Null: the page is not mapped.
  absl::StatusOr<const uint8_t*> Page(uint64_t page) {
    const pb::Mapping* mapping = Find(page);
    if (mapping == nullptr) return nullptr;
    std::memset(bytes_, 0, kPageSize);
    // A shared object's table is whole: what it lacks is a hole.
    if (mapping->kind() != pb::Mapping::PRIVATE_FILE) return bytes_;
    const std::string& path = mapping->file().path();
    if (!files_.contains(path)) {
      INCR_ASSIGN_OR_RETURN(files_[path], OpenFile(path, O_RDONLY));
    }
    INCR_RETURN_IF_ERROR(PreadUpTo(files_[path].get(), bytes_, kPageSize,
                                   mapping->offset() + page * kPageSize - mapping->start(), path)
                             .status());
    return bytes_;
  }

  bool Excluded(uint64_t page) const {
    const pb::Mapping* mapping = Find(page);
    return mapping != nullptr && mapping->excluded();
  }

  std::string Describe(uint64_t page) const {
    const pb::Mapping* mapping = Find(page);
    return mapping == nullptr ? "not mapped" : mapping->ShortDebugString();
  }

 private:
  const pb::Mapping* Find(uint64_t page) const {
    auto next = by_start_.upper_bound(page * kPageSize);
    if (next == by_start_.begin()) return nullptr;
    const pb::Mapping* mapping = std::prev(next)->second;
    return page * kPageSize < mapping->end() ? mapping : nullptr;
  }

  std::map<uint64_t, const pb::Mapping*> by_start_;
  std::map<std::string, ScopedFd> files_;
  uint8_t bytes_[kPageSize];
};

absl::Status Differs(uint64_t epoch, uint64_t page, const char* how) {
  return absl::DataLossError(
      absl::StrFormat("epoch %d: page at %#x %s", epoch, page * kPageSize, how));
}

}  // namespace

absl::StatusOr<OracleImage> ReadOracle(const ProcessHandle& process) {
  OracleImage oracle;
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(process));
  INCR_ASSIGN_OR_RETURN(MemoryMap flags, ReadSmaps(process));
  for (const MemoryMapping& mapping : flags) {
    if (mapping.HasFlag("dd")) oracle.dontdump.Add(mapping.pages());
  }
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(process, false));
  INCR_ASSIGN_OR_RETURN(ScopedFd pagemap, OpenFile(process.ProcPath("pagemap"), O_RDONLY));
  for (const MemoryMapping& mapping : map) {
    if (!Saved(ClassifyMapping(mapping))) continue;
    oracle.mapped[mapping.pages().first] = mapping.pages().end();
    INCR_RETURN_IF_ERROR(ClassifyMapping(mapping) == MappingClass::kSharedWritable
                             ? ReadShared(process, mapping, &oracle)
                             : ReadMapping(mapping, pagemap.get(), memory, &oracle));
  }
  return oracle;
}

absl::Status CompareWithOracle(const StoreReader& store, const std::string& job, uint64_t epoch,
                               const OracleImage& oracle) {
  INCR_ASSIGN_OR_RETURN(PageTable table, store.LoadPageTable(job, epoch));
  INCR_ASSIGN_OR_RETURN(std::string bytes, store.ReadImage(job, epoch));
  pb::Image image;
  if (!image.ParseFromString(bytes)) return absl::DataLossError("image does not parse");
  Background background(image.processes(0));

  std::vector<PageId> ids;
  for (const PageTableEntry& entry : table) ids.push_back(entry.id);
  std::map<uint64_t, uint64_t> restored;
  INCR_RETURN_IF_ERROR(store.ReadPages(ids, [&](size_t i, const uint8_t* page) {
    restored[table[i].page] = HashPage(page);
    return absl::OkStatus();
  }));

  for (const auto& [page, hash] : oracle.pages) {
    auto it = restored.find(page);
    uint64_t have;
    if (it != restored.end()) {
      have = it->second;
    } else if (oracle.dontdump.Contains(page) && background.Excluded(page)) {
      continue;
    } else {
      INCR_ASSIGN_OR_RETURN(const uint8_t* content, background.Page(page));
      if (content == nullptr) return Differs(epoch, page, "is mapped but not in the image");
      have = HashPage(content);
    }
    if (have != hash) {
      return Annotate(Differs(epoch, page,
                              it != restored.end() ? "differs from the process's"
                                                   : "is missing from the table"),
                      background.Describe(page));
    }
  }
  for (const auto& [page, hash] : restored) {
    if (oracle.pages.contains(page)) continue;
    auto mapping = oracle.mapped.upper_bound(page);
    if (mapping == oracle.mapped.begin() || page >= (--mapping)->second) {
      return Differs(epoch, page, "is in the table but not mapped");
    }
    INCR_ASSIGN_OR_RETURN(const uint8_t* content, background.Page(page));
    if (content == nullptr || HashPage(content) != hash) {
      return Annotate(Differs(epoch, page, "was dropped by the process but lives on in the table"),
                      background.Describe(page));
    }
  }
  return absl::OkStatus();
}

}  // namespace incr
