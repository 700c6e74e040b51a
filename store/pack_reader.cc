#include "store/pack_reader.h"

#include <fcntl.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/page_range.h"
#include "base/status.h"
#include "store/lz4_page.h"
#include "store/zstd_page.h"

namespace incr {
namespace {

constexpr size_t kMaxOpenPacks = 256;

}  // namespace

std::string PackReader::PathOf(uint32_t pack) const {
  return absl::StrCat(directory_, "/", PackName(pack));
}

absl::StatusOr<std::shared_ptr<ScopedFd>> PackReader::Open(uint32_t pack) const {
  absl::MutexLock lock(&mutex_);
  if (auto found = open_.find(pack); found != open_.end()) return found->second;
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, io_.Open(PathOf(pack), O_RDONLY));
  // Our reads are large already. Read-ahead would cache blocks beyond what is committed, which a
  // writer is about to fill behind the cache's back.
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);
  if (open_.size() >= kMaxOpenPacks) open_.erase(open_.begin());
  return open_[pack] = std::make_shared<ScopedFd>(std::move(fd));
}

absl::StatusOr<ScopedFd> PackReader::OpenDirect(uint32_t pack) const {
  if (io_.faults() != nullptr) return absl::UnimplementedError("a faulty disk");
  INCR_RETURN_IF_ERROR(FaultPoint("store.no_direct"));
  return io_.Open(PathOf(pack), O_RDONLY | O_DIRECT);
}

void PackReader::Forget(uint32_t pack) const {
  absl::MutexLock lock(&mutex_);
  open_.erase(pack);
}

absl::Status PackReader::ReadRun(uint32_t pack, uint64_t offset, size_t bytes, uint8_t* to) const {
  absl::StatusOr<std::shared_ptr<ScopedFd>> fd = Open(pack);
  absl::Status status =
      fd.ok() ? io_.PreadExactly((*fd)->get(), to, bytes, offset, PathOf(pack)) : fd.status();
  if (absl::IsNotFound(status) || absl::IsOutOfRange(status)) {
    return absl::DataLossError(absl::StrCat("pack ", PathOf(pack), " is missing or cut short at offset ",
                                            offset, ": ", status.message()));
  }
  return Annotate(status, absl::StrCat("offset ", offset));
}

bool PackReader::DecodeOnce(const PageId& id, const PageLocation& location, const uint8_t* body,
                            uint8_t* page) const {
  switch (location.encoding) {
    case PageEncoding::kRaw:
      if (location.length != kPageSize) return false;
      std::memcpy(page, body, kPageSize);
      break;
    case PageEncoding::kLz4:
      if (!DecompressPage(body, location.length, page)) return false;
      break;
    case PageEncoding::kZstd:
      if (!DecompressZstdPage(body, location.length, page)) return false;
      break;
  }
  return hasher_->Hash(page) == id;
}

absl::Status PackReader::Decode(const PageId& id, const PageLocation& location,
                                const uint8_t* body, uint8_t* page) const {
  if (DecodeOnce(id, location, body, page)) [[likely]] return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(std::shared_ptr<ScopedFd> fd, Open(location.pack));
  const uint64_t first = location.offset / kBlockBytes * kBlockBytes;
  ::posix_fadvise(fd->get(), first, location.end() - first, POSIX_FADV_DONTNEED);
  uint8_t again[kPageSize];
  INCR_RETURN_IF_ERROR(ReadRun(location.pack, location.offset, location.length, again));
  if (DecodeOnce(id, location, again, page)) return absl::OkStatus();
  std::memset(page, 0, kPageSize);
  return absl::DataLossError(absl::StrCat("pack ", PathOf(location.pack), " is damaged at offset ",
                                          location.offset, ": page ", PageIdText(id),
                                          " does not match its hash"));
}

absl::Status PackReader::ReadPage(const PageId& id, const PageLocation& location,
                                  uint8_t* page) const {
  uint8_t body[kPageSize];
  if (location.length > sizeof body) return absl::DataLossError("page body too long");
  INCR_RETURN_IF_ERROR(ReadRun(location.pack, location.offset, location.length, body));
  return Decode(id, location, body, page);
}

}  // namespace incr
