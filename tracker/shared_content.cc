#include "tracker/shared_content.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr uint64_t kBlockPages = 256;  // 1 MiB: larger blocks read no faster

struct Extent {
  uint64_t begin = 0, end = 0;  // bytes of the object
};

// Where a hole is surely a hole, even right after a write through a mapping. FUSE and network
// file systems ask a server, which has not seen the dirty pages yet.
bool KnowsItsHoles(int fd) {
  constexpr decltype(statfs::f_type) kXfs = 0x58465342;  // not in magic.h
  struct statfs facts;
  if (::fstatfs(fd, &facts) != 0) return false;
  for (decltype(facts.f_type) type :
       {decltype(facts.f_type){TMPFS_MAGIC}, decltype(facts.f_type){EXT4_SUPER_MAGIC},
        decltype(facts.f_type){BTRFS_SUPER_MAGIC}, kXfs}) {
    if (facts.f_type == type) return true;
  }
  return false;
}

// The next stretch of data of `fd` at or after `from`, clipped to `limit`; empty: no more.
absl::StatusOr<Extent> NextData(int fd, uint64_t from, uint64_t limit,
                                const std::string& what) {
  const off_t begin = ::lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return Extent{limit, limit};
  // A file system that cannot tell: all of it is data.
  if (begin < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) return Extent{from, limit};
  if (begin < 0) return ErrnoStatus(absl::StrCat("lseek(", what, ", SEEK_DATA)"));
  const off_t end = ::lseek(fd, begin, SEEK_HOLE);
  if (end < 0) return ErrnoStatus(absl::StrCat("lseek(", what, ", SEEK_HOLE)"));
  // File systems may speak in blocks smaller than a page.
  const uint64_t first = static_cast<uint64_t>(begin) / kPageSize * kPageSize;
  const uint64_t last = (static_cast<uint64_t>(end) + kPageSize - 1) / kPageSize * kPageSize;
  return Extent{std::min(std::max(first, from), limit), std::min(last, limit)};
}

class ObjectReader {
 public:
  ObjectReader(int fd, uint64_t size, const RemoteMemory& memory, const MemoryMapping& mapping)
      : fd_(fd), size_(size), memory_(memory), mapping_(mapping) {}

  absl::Status Visit(PageVisitor visit) {
    const uint64_t end = mapping_.offset + (mapping_.end - mapping_.start);
    const uint64_t whole_end = std::min(end, size_ / kPageSize * kPageSize);
    for (uint64_t at = mapping_.offset; at < whole_end;) {
      INCR_ASSIGN_OR_RETURN(Extent data, Next(at, whole_end));
      INCR_RETURN_IF_ERROR(ReadExtent(data, visit));
      at = data.end;
    }
    // A last page that the object fills only in part: through the mapping its other bytes can be
    // written and read too, but pread() does not show them.
    if (whole_end >= mapping_.offset && whole_end < end && size_ > whole_end) {
      INCR_ASSIGN_OR_RETURN(Extent data, Next(whole_end, size_));
      if (data.begin < data.end) {
        return VisitProcessPages(memory_, {PageAt(whole_end), 1}, visit);
      }
    }
    return absl::OkStatus();
  }

 private:
  uint64_t PageAt(uint64_t offset) const {
    return (mapping_.start + (offset - mapping_.offset)) / kPageSize;
  }

  absl::StatusOr<Extent> Next(uint64_t from, uint64_t limit) const {
    if (!knows_its_holes_) return Extent{from, limit};
    return NextData(fd_, from, limit, mapping_.name);
  }

  absl::Status ReadExtent(Extent data, PageVisitor visit) {
    while (data.begin < data.end) {
      const uint64_t bytes = std::min(data.end - data.begin, kBlockPages * kPageSize);
      INCR_RETURN_IF_ERROR(
          PreadExactly(fd_, block_.get(), bytes, data.begin, mapping_.name));
      for (uint64_t done = 0; done < bytes; done += kPageSize) {
        visit(PageAt(data.begin + done), block_.get() + done);
      }
      data.begin += bytes;
    }
    return absl::OkStatus();
  }

  const int fd_;
  const uint64_t size_;
  const RemoteMemory& memory_;
  const MemoryMapping& mapping_;
  const bool knows_its_holes_ = KnowsItsHoles(fd_);
  const std::unique_ptr<uint8_t[]> block_{new uint8_t[kBlockPages * kPageSize]};
};

absl::Status VisitObject(const ProcessHandle& process, const RemoteMemory& memory,
                         const MemoryMapping& mapping, PageVisitor visit) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenMappedObject(process, mapping));
  struct stat facts;
  if (::fstat(fd.get(), &facts) != 0) return ErrnoStatus(absl::StrCat("fstat(", mapping.name, ")"));
  return ObjectReader(fd.get(), facts.st_size, memory, mapping).Visit(visit);
}

bool IsZero(const uint8_t* page) {
  return page[0] == 0 && std::memcmp(page, page + 1, kPageSize - 1) == 0;
}

}  // namespace

absl::Status VisitProcessPages(const RemoteMemory& memory, PageRange range, PageVisitor visit) {
  const std::unique_ptr<uint8_t[]> block(
      new uint8_t[std::min(range.count, kBlockPages) * kPageSize]);
  while (range.count > 0) {
    const PageRange part{range.first, std::min(range.count, kBlockPages)};
    PageSet unreadable;
    INCR_RETURN_IF_ERROR(memory.ReadPages({part}, block.get(), &unreadable));
    for (uint64_t i = 0; i < part.count; ++i) {
      if (unreadable.Contains(part.first + i)) continue;
      visit(part.first + i, block.get() + i * kPageSize);
    }
    range = {part.end(), range.count - part.count};
  }
  return absl::OkStatus();
}

absl::Status VisitSharedContent(const ProcessHandle& process, const RemoteMemory& memory,
                                const MemoryMapping& mapping, PageVisitor visit) {
  // Pages already visited before an error would come twice: collect the last, to go on after it.
  uint64_t next = mapping.pages().first;
  const absl::Status status =
      VisitObject(process, memory, mapping, [&](uint64_t page, const uint8_t* bytes) {
        visit(page, bytes);
        next = page + 1;
      });
  if (status.ok()) return status;
  return VisitProcessPages(memory, {next, mapping.pages().end() - next},
                           [&](uint64_t page, const uint8_t* bytes) {
                             if (!IsZero(bytes)) visit(page, bytes);
                           });
}

absl::Status VisitAllSharedContent(const ProcessHandle& process, const RemoteMemory& memory,
                                   const MemoryMap& map, PageVisitor visit) {
  for (const MemoryMapping& mapping : map) {
    if (ClassifyMapping(mapping) != MappingClass::kSharedWritable) continue;
    INCR_RETURN_IF_ERROR(VisitSharedContent(process, memory, mapping, visit));
  }
  return absl::OkStatus();
}

}  // namespace incr
