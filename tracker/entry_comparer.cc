#include "tracker/entry_comparer.h"

#include <utility>

#include "process/kernel_abi.h"
#include "tracker/pagemap_content.h"

namespace incr {
namespace {

constexpr uint64_t kHugePages = 512;  // base pages of a huge one

}  // namespace

void EntryComparer::Begin() {
  current_ = Identities();
  written_.Clear();
  content_.Clear();
  untellable_.Clear();
  huge_page_ = huge_frame_ = 0;
  cursor_.emplace(cleared_);
}

void EntryComparer::Visit(uint64_t page, uint64_t entry, Backing backing) {
  const uint64_t identity = PageIdentity(entry);
  const uint64_t* before = cursor_->Find(page);
  const bool clean = (entry & kPagemapSoftDirty) == 0 && before != nullptr && *before == identity &&
                     identity != kUnknownPage;
  if (!clean) written_.Add({page, 1});
  content_.Add({page, 1});
  current_.Append(page, identity);
  if (backing == Backing::kFile) FindHugePage(page, entry);
}

// 512 pages in a row, from a boundary, on frames in a row from a boundary.
void EntryComparer::FindHugePage(uint64_t page, uint64_t entry) {
  const uint64_t frame = entry & kPagemapFrame;
  if (page % kHugePages == 0 && frame % kHugePages == 0) {
    huge_page_ = page;
    huge_frame_ = frame;
  }
  if (page != huge_page_ || frame != huge_frame_ || (entry & kPagemapPresent) == 0) {
    huge_page_ = 0;
    return;
  }
  ++huge_page_;
  ++huge_frame_;
  if (huge_page_ % kHugePages != 0) return;
  const PageRange whole{huge_page_ - kHugePages, kHugePages};
  written_.Add(whole);
  untellable_.Add(whole);
}

void EntryComparer::Keep() {
  cleared_ = std::move(current_);
  current_ = Identities();
}

}  // namespace incr
