#include "store/page_pipeline.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/lz4_page.h"
#include "store/page_delta.h"

namespace incr {
namespace {

const uint8_t* PageBytes(const PageBlock& block, size_t i) { return block.bytes + i * kPageSize; }

absl::Status Collision(const PageId& id) {
  return absl::InternalError(absl::StrCat(
      "two different pages have the same id ", PageIdText(id),
      ": a hash collision, found by --paranoid; this epoch cannot be stored"));
}

}  // namespace

PipelineMemory::Lists PipelineMemory::Take() {
  absl::MutexLock lock(&mutex_);
  if (spare_.empty()) return {};
  Lists lists = std::move(spare_.back());
  spare_.pop_back();
  return lists;
}

void PipelineMemory::Give(Lists lists) {
  // Not a first epoch's: a few megabytes are kept, whatever the processes' sizes.
  constexpr size_t kMostKept = 1u << 16, kMostSpare = 2;
  if (lists.results.capacity() > kMostKept || lists.stored.capacity() > kMostKept) return;
  lists.results.clear();
  lists.stored.clear();
  absl::MutexLock lock(&mutex_);
  if (spare_.size() < kMostSpare) spare_.push_back(std::move(lists));
}

struct PagePipeline::Work {
  PageId ids[PageBlock::kPages];
  PageFate fates[PageBlock::kPages];
  std::vector<uint8_t> open;  // pages still without a fate, by index
};

PagePipeline::~PagePipeline() {
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }
  WaitIdle();
  tools_.known->Unregister(&hits_);
  tools_.memory->Give(std::move(lists_));
}

void PagePipeline::WaitIdle() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(+[](PagePipeline* p) { return p->outstanding_ == 0; }, this));
}

absl::Status PagePipeline::Submit(std::unique_ptr<PageBlock> block) {
  {
    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) {
      tools_.blocks->Give(std::move(block));
      return error_;
    }
    if (lists_.results.size() > thin_at_) {
      // Pre-copy may give the same pages again and again.
      KeepLastWrites(&lists_.results);
      thin_at_ = std::max(thin_at_, 2 * lists_.results.size());
    }
    ++outstanding_;
  }
  tools_.blocks->Enter();
  // std::function wants a copyable closure.
  tools_.workers->Run([this, raw = block.release()] { Process(std::unique_ptr<PageBlock>(raw)); });
  return absl::OkStatus();
}

absl::Status PagePipeline::Drain() {
  WaitIdle();
  absl::MutexLock lock(&mutex_);
  return error_;
}

void PagePipeline::Process(std::unique_ptr<PageBlock> block) {
  bool skip;
  {
    absl::MutexLock lock(&mutex_);
    skip = cancelled_ || !error_.ok();
  }
  std::vector<PageResult> results;
  absl::Status status = skip ? absl::OkStatus() : ProcessBlock(*block, &results);
  tools_.blocks->Give(std::move(block));
  tools_.blocks->Leave();
  absl::MutexLock lock(&mutex_);
  if (!status.ok() && error_.ok()) error_ = status;
  lists_.results.insert(lists_.results.end(), results.begin(), results.end());
  --outstanding_;  // Last: whoever waits may destroy this pipeline next.
}

absl::Status PagePipeline::ProcessBlock(PageBlock& block, std::vector<PageResult>* results) {
  Work work;
  Classify(block, &work);
  INCR_RETURN_IF_ERROR(FindKnown(block, &work));
  INCR_RETURN_IF_ERROR(tools_.paranoid ? StoreParanoid(block, &work) : Store(block, &work));
  results->resize(block.count);
  for (size_t i = 0; i < block.count; ++i) {
    PageResult& result = (*results)[i];
    result.space = block.keys[i].space;
    result.sequence = block.sequence;
    result.page = block.keys[i].page;
    result.fate = static_cast<uint8_t>(work.fates[i]);
    result.id = work.ids[i];
  }
  return absl::OkStatus();
}

void PagePipeline::Classify(const PageBlock& block, Work* work) const {
  size_t hint = 0;
  for (size_t i = 0; i < block.count; ++i) {
    const uint8_t* page = PageBytes(block, i);
    if (block.keys[i].zero) {
      work->ids[i] = kZeroPageId;
      work->fates[i] = PageFate::kZero;
      continue;
    }
    work->ids[i] = tools_.hasher->Hash(page);
    work->fates[i] = PageFate::kDeduplicated;
    // Paranoid: the parent's body must prove itself like any other.
    const PageTableEntry* same =
        tools_.paranoid ? nullptr
                        : FindEntry(*parent_, block.keys[i].space, block.keys[i].page, &hint);
    if (same == nullptr || same->id != work->ids[i]) work->open.push_back(i);
  }
}

absl::Status PagePipeline::FindKnown(const PageBlock& block, Work* work) {
  if (work->open.empty()) return absl::OkStatus();
  std::vector<PageId> ids;
  for (const uint8_t i : work->open) ids.push_back(work->ids[i]);
  std::vector<bool> known;
  INCR_RETURN_IF_ERROR(tools_.known->Find(ids, &known, &hits_));
  std::vector<uint8_t> open;
  for (size_t k = 0; k < ids.size(); ++k) {
    const uint8_t i = work->open[k];
    bool hit = known[k];
    if (hit && tools_.paranoid) {
      INCR_ASSIGN_OR_RETURN(hit, MatchesCommitted(ids[k], PageBytes(block, i)));
    }
    if (!hit) open.push_back(i);
  }
  work->open = std::move(open);
  return absl::OkStatus();
}

absl::Status PagePipeline::Store(PageBlock& block, Work* work) {
  // Claim first, then compress: no worker compresses what another already does.
  std::vector<uint8_t> ours;
  {
    absl::MutexLock lock(&mutex_);
    for (const uint8_t i : work->open) {
      if (claimed_.insert(work->ids[i]).second) ours.push_back(i);
    }
  }
  uint16_t lengths[PageBlock::kPages];
  uint8_t body[kMaxCompressedPage];
  for (const uint8_t i : ours) {
    work->fates[i] = PageFate::kStored;
    uint8_t* page = block.bytes + i * kPageSize;
    lengths[i] = CompressPage(page, body);
    if (lengths[i] != 0) std::memcpy(page, body, lengths[i]);  // In place: its id is known.
  }
  absl::MutexLock lock(&pack_mutex_);
  for (const uint8_t i : ours) {
    const bool raw = lengths[i] == 0;
    IndexEntry entry{work->ids[i], {}};
    INCR_RETURN_IF_ERROR(packs_->Append(entry.id, PageBytes(block, i),
                                        raw ? kPageSize : lengths[i],
                                        raw ? PageEncoding::kRaw : PageEncoding::kLz4,
                                        &entry.location));
    lists_.stored.push_back(entry);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> PagePipeline::MatchesCommitted(const PageId& id, const uint8_t* page) const {
  PageLocation location;
  bool found = false;
  INCR_RETURN_IF_ERROR(FindPages(*tools_.db, {&id, 1}, [&](size_t, const PageLocation& l) {
    location = l;
    found = true;
    return absl::OkStatus();
  }));
  uint8_t stored[kPageSize];
  if (!found) return false;
  const absl::Status read = tools_.reader->ReadPage(id, location, stored);
  if (absl::IsDataLoss(read)) return false;  // Damaged: stored anew, the index follows.
  INCR_RETURN_IF_ERROR(read);
  if (std::memcmp(stored, page, kPageSize) != 0) return Collision(id);
  return true;
}

absl::Status PagePipeline::StoreParanoid(const PageBlock& block, Work* work) {
  absl::MutexLock lock(&pack_mutex_);
  uint8_t body[kPageSize];
  for (const uint8_t i : work->open) {
    const uint8_t* page = PageBytes(block, i);
    IndexEntry entry{work->ids[i], {}};
    if (auto own = own_.find(entry.id); own != own_.end()) {
      INCR_RETURN_IF_ERROR(packs_->ReadBack(own->second, body));
      uint8_t stored[kPageSize];
      const bool raw = own->second.encoding == PageEncoding::kRaw;
      if (!raw && !DecompressPage(body, own->second.length, stored)) return Collision(entry.id);
      if (std::memcmp(raw ? body : stored, page, kPageSize) != 0) return Collision(entry.id);
      continue;
    }
    const size_t length = CompressPage(page, body);
    INCR_RETURN_IF_ERROR(packs_->Append(entry.id, length == 0 ? page : body,
                                        length == 0 ? kPageSize : length,
                                        length == 0 ? PageEncoding::kRaw : PageEncoding::kLz4,
                                        &entry.location));
    work->fates[i] = PageFate::kStored;
    own_[entry.id] = entry.location;
    lists_.stored.push_back(entry);
  }
  return absl::OkStatus();
}

}  // namespace incr
