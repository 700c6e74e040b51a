#include "store/pack_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/page_range.h"
#include "base/status.h"

namespace incr {
namespace {

static_assert(UringWriter::kBufferBytes == kSegmentMaxBytes);

// A write beyond the end of a file waits for the one before it (ext4 takes the inode's lock for
// writing): reserve ahead in steps of this.
constexpr uint64_t kPreallocateBytes = 16u << 20;

absl::StatusOr<ScopedFd> CreatePackFile(FileIo io, const std::string& path) {
  const int flags = O_RDWR | O_CREAT | O_EXCL;
  if (FaultPoint("store.no_direct").ok()) {
    absl::StatusOr<ScopedFd> direct = io.Open(path, flags | O_DIRECT, 0600);
    if (direct.ok() || !absl::IsInvalidArgument(direct.status())) return direct;
    (void)io.Unlink(path);  // Some file systems create it, then refuse O_DIRECT.
  }
  return io.Open(path, flags, 0600);
}

}  // namespace

PackWriter::PackWriter(Settings settings, std::unique_ptr<UringWriter> queue)
    : settings_(std::move(settings)), queue_(std::move(queue)) {}

absl::StatusOr<std::unique_ptr<PackWriter>> PackWriter::Create(Settings settings) {
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<UringWriter> queue, UringWriter::Create(settings.io));
  return std::unique_ptr<PackWriter>(new PackWriter(std::move(settings), std::move(queue)));
}

void PackWriter::Adopt(PackFile file) {
  INCR_CHECK(packs_.empty() && file.base == file.end);
  packs_.push_back(std::move(file));
}

absl::Status PackWriter::NewPack() {
  PackFile pack;
  INCR_ASSIGN_OR_RETURN(pack.id, settings_.new_pack_id());
  pack.path = absl::StrCat(settings_.directory, "/", PackName(pack.id));
  INCR_ASSIGN_OR_RETURN(pack.fd, CreatePackFile(settings_.io, pack.path));
  created_ = true;
  uint8_t* header = queue_->TakeBuffer();
  EncodePackHeader(pack.id, settings_.store_tag, header);
  queue_->WriteNow(pack.fd.get(), header, kPackHeaderBytes, 0, pack.path);
  pack.end = pack.allocated = kPackHeaderBytes;
  bytes_written_ += kPackHeaderBytes;
  packs_.push_back(std::move(pack));
  return queue_->error();
}

absl::Status PackWriter::OpenSegment() {
  if (packs_.empty() || packs_.back().end >= settings_.pack_bytes) INCR_RETURN_IF_ERROR(NewPack());
  segment_ = queue_->TakeBuffer();
  body_bytes_ = 0;
  entries_.clear();
  return absl::OkStatus();
}

absl::Status PackWriter::Append(const PageId& id, const uint8_t* body, uint16_t length,
                                PageEncoding encoding, PageLocation* location) {
  INCR_RETURN_IF_ERROR(queue_->error());
  if (segment_ != nullptr &&
      SegmentBytes(body_bytes_ + length, entries_.size() + 1) > kSegmentMaxBytes) {
    CloseSegment(/*streaming=*/true);
  }
  if (segment_ == nullptr) INCR_RETURN_IF_ERROR(OpenSegment());
  const size_t at = kSegmentHeaderBytes + body_bytes_;
  std::memcpy(segment_ + at, body, length);
  body_bytes_ += length;
  entries_.push_back({id, static_cast<uint32_t>(at), length, encoding});
  const PackFile& pack = packs_.back();
  *location = {pack.id, pack.end + at, length, encoding};
  return absl::OkStatus();
}

void PackWriter::Preallocate(PackFile& pack, uint64_t end) {
  if (end <= pack.allocated) return;
  const uint64_t size = std::min(end + kPreallocateBytes, settings_.pack_bytes + kSegmentMaxBytes);
  // Only a help: where it fails (file system, disk nearly full), the write itself decides.
  if (settings_.io.Allocate(pack.fd.get(), size, pack.path)) pack.allocated = size;
}

void PackWriter::CloseSegment(bool streaming) {
  PackFile& pack = packs_.back();
  const size_t bytes = SealSegment(pack.id, pack.end, settings_.store_tag, body_bytes_, entries_,
                                   segment_);
  uint8_t* const segment = std::exchange(segment_, nullptr);
  if (streaming) {
    Preallocate(pack, pack.end + bytes);
    queue_->Start(pack.fd.get(), segment, bytes, pack.end, pack.path);
  } else {
    queue_->WriteNow(pack.fd.get(), segment, bytes, pack.end, pack.path);
  }
  pack.end += bytes;
  pack.allocated = std::max(pack.allocated, pack.end);
  bytes_written_ += bytes;
}

absl::Status PackWriter::ReadBack(const PageLocation& location, uint8_t* body) {
  for (const PackFile& pack : packs_) {
    if (pack.id != location.pack) continue;
    if (segment_ != nullptr && &pack == &packs_.back() && location.offset >= pack.end) {
      std::memcpy(body, segment_ + (location.offset - pack.end), location.length);
      return absl::OkStatus();
    }
    INCR_RETURN_IF_ERROR(queue_->Drain());
    INCR_ASSIGN_OR_RETURN(ScopedFd buffered, settings_.io.Open(pack.path, O_RDONLY));
    return settings_.io.PreadExactly(buffered.get(), body, location.length, location.offset, pack.path);
  }
  return absl::InternalError("not a body of this epoch");
}

absl::Status PackWriter::Finish() {
  finished_.clear();
  if (segment_ != nullptr) CloseSegment(/*streaming=*/false);
  INCR_RETURN_IF_ERROR(queue_->Drain());
  INCR_RETURN_IF_ERROR(FaultPoint("store.after_pack_write"));
  for (PackFile& pack : packs_) {
    if (pack.end == pack.base) continue;
    if (pack.allocated > pack.end) {
      INCR_RETURN_IF_ERROR(settings_.io.Truncate(pack.fd.get(), pack.end, pack.path));
      pack.allocated = pack.end;
    }
    absl::Status synced = FaultPoint("store.pack_sync");
    if (synced.ok()) synced = settings_.io.Sync(pack.fd.get(), pack.path);
    if (!synced.ok()) {
      // The kernel may now call these pages clean though they never reached the disk: no second
      // fdatasync can be believed. The pack is not appended to again.
      pack.fd.reset();
      return synced;
    }
    finished_.push_back({pack.id, pack.end});
  }
  if (created_) INCR_RETURN_IF_ERROR(settings_.io.SyncDirectory(settings_.directory));
  created_ = false;
  INCR_RETURN_IF_ERROR(FaultPoint("store.after_pack_sync"));
  for (PackFile& pack : packs_) pack.base = pack.end;
  if (packs_.size() > 1) packs_.erase(packs_.begin(), packs_.end() - 1);
  return absl::OkStatus();
}

void PackWriter::Abandon() {
  if (segment_ != nullptr) queue_->ReturnBuffer(std::exchange(segment_, nullptr));
  (void)queue_->Drain();
  finished_.clear();
  bytes_written_ = 0;
  std::vector<PackFile> kept;
  for (PackFile& pack : packs_) {
    if (pack.base == 0) {
      (void)settings_.io.Unlink(pack.path);
    } else if (pack.fd.ok()) {
      if (pack.end != pack.base || pack.allocated != pack.base) {
        if (!settings_.io.Truncate(pack.fd.get(), pack.base, pack.path).ok()) continue;  // The next open cuts it.
      }
      pack.end = pack.allocated = pack.base;
      kept.push_back(std::move(pack));
    }
  }
  packs_ = std::move(kept);
  created_ = false;
}

std::optional<PackFile> PackWriter::GiveUpPack() {
  INCR_CHECK(segment_ == nullptr);
  if (packs_.empty() || packs_.back().end >= settings_.pack_bytes) return std::nullopt;
  PackFile pack = std::move(packs_.back());
  packs_.clear();
  return pack;
}

}  // namespace incr
