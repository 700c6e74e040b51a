#include "checkpoint/page_copier.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"

namespace incr {
namespace {

constexpr uint64_t kBatchPages = 1024;  // 4 MiB: past 1 MiB process_vm_readv gains nothing more

}  // namespace

std::vector<std::vector<PageRange>> CutIntoBatches(const PageSet& pages, uint64_t max_pages) {
  INCR_CHECK(max_pages > 0);
  std::vector<std::vector<PageRange>> batches;
  uint64_t room = 0;
  for (PageRange run : pages.runs()) {
    while (run.count > 0) {
      if (room == 0) {
        batches.emplace_back();
        room = max_pages;
      }
      const uint64_t count = std::min(run.count, room);
      batches.back().push_back({run.first, count});
      run = {run.first + count, run.count - count};
      room -= count;
    }
  }
  return batches;
}

void PageCopier::Reserve(uint64_t pages) {
  if (pages <= buffer_.pages) return;
  buffer_ = {};  // the old one first
  buffer_.bytes = std::unique_ptr<uint8_t[]>(new uint8_t[pages * kPageSize]);
  buffer_.pages = pages;
  std::memset(buffer_.bytes.get(), 0, pages * kPageSize);
}

absl::Status PageCopier::Add(const std::vector<PageRange>& ranges, const uint8_t* bytes,
                             const PageSet& unreadable) {
  for (const PageRange& range : ranges) {
    // Unreadable pages came back zero-filled: they must not become content.
    PageSet readable;
    readable.Add(range);
    if (!unreadable.empty()) readable.Remove(unreadable);
    for (const PageRange& part : readable.runs()) {
      INCR_RETURN_IF_ERROR(
          writer_->AddPages(space_, part, bytes + (part.first - range.first) * kPageSize));
    }
    bytes += range.count * kPageSize;
  }
  return absl::OkStatus();
}

absl::Status PageCopier::Stream(const PageSet& pages, PageSet* unreadable,
                                absl::FunctionRef<absl::Status()> between) {
  Reserve(std::min(kBatchPages, pages.page_count()));
  for (const std::vector<PageRange>& batch : CutIntoBatches(pages, kBatchPages)) {
    PageSet failed;
    INCR_RETURN_IF_ERROR(memory_->ReadPages(batch, buffer_.bytes.get(), &failed));
    INCR_RETURN_IF_ERROR(Add(batch, buffer_.bytes.get(), failed));
    unreadable->Add(failed);
    INCR_RETURN_IF_ERROR(between());
  }
  return absl::OkStatus();
}

absl::Status PageCopier::ReadIntoMemory(const PageSet& pages, PageSet* unreadable) {
  Reserve(pages.page_count());
  held_ = pages.runs();
  held_unreadable_.Clear();
  INCR_RETURN_IF_ERROR(memory_->ReadPages(held_, buffer_.bytes.get(), &held_unreadable_));
  unreadable->Add(held_unreadable_);
  return absl::OkStatus();
}

absl::Status PageCopier::AddFromMemory() {
  absl::Status status = Add(held_, buffer_.bytes.get(), held_unreadable_);
  held_.clear();
  return status;
}

}  // namespace incr
