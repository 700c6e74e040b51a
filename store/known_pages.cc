#include "store/known_pages.h"

#include <algorithm>

#include "base/status.h"

namespace incr {

absl::Status KnownPages::Load() {
  absl::MutexLock lock(&mutex_);
  const size_t rows = db_->EstimateRows(KvTable::kPages);
  if (rows > kLoadAtOpen) {
    complete_ = false;
    return absl::OkStatus();
  }
  ids_.reserve(std::min(limit_, rows));
  const absl::Status status = ForEachPage(*db_, [this](const IndexEntry& entry) {
    if (!packs_->IsIntact(entry.location)) return absl::OkStatus();
    if (ids_.size() >= limit_) {
      complete_ = false;
      return absl::CancelledError();  // The rest is looked up where it is.
    }
    ids_.insert(entry.id);
    return absl::OkStatus();
  });
  return complete_ ? status : absl::OkStatus();
}

void KnownPages::Add(absl::Span<const IndexEntry> entries) {
  absl::MutexLock lock(&mutex_);
  for (const IndexEntry& entry : entries) {
    if (ids_.size() >= limit_) {
      complete_ = false;
      return;
    }
    ids_.insert(entry.id);
  }
}

absl::Status KnownPages::Find(absl::Span<const PageId> ids, std::vector<bool>* known,
                              HitList* hits) const {
  std::vector<PageId> found;
  const auto take = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if ((*known)[i]) found.push_back(ids[i]);
    }
    hits->Add(found);
    if (watching_ == nullptr) return;
    for (const PageId& id : found) watching_->Insert(id);
  };
  for (;;) {
    known->assign(ids.size(), false);
    uint64_t drops;
    {
      absl::ReaderMutexLock lock(&mutex_);
      for (size_t i = 0; i < ids.size(); ++i) (*known)[i] = ids_.contains(ids[i]);
      drops = drops_;
      if (complete_) {
        take();
        return absl::OkStatus();
      }
    }
    INCR_RETURN_IF_ERROR(FindInDatabase(ids, known));
    absl::ReaderMutexLock lock(&mutex_);
    if (drops != drops_) continue;  // What was just read may be gone.
    take();
    return absl::OkStatus();
  }
}

absl::Status KnownPages::FindInDatabase(absl::Span<const PageId> ids,
                                        std::vector<bool>* known) const {
  std::vector<PageId> rest;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!(*known)[i]) rest.push_back(ids[i]);
  }
  std::sort(rest.begin(), rest.end());
  absl::flat_hash_set<PageId> found;
  INCR_RETURN_IF_ERROR(FindPages(*db_, rest, [&](size_t i, const PageLocation& location) {
    if (packs_->IsIntact(location)) found.insert(rest[i]);
    return absl::OkStatus();
  }));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (found.contains(ids[i])) (*known)[i] = true;
  }
  return absl::OkStatus();
}

void KnownPages::Register(HitList* hits) {
  absl::MutexLock lock(&mutex_);
  lists_.insert(hits);
}

void KnownPages::Unregister(HitList* hits) {
  absl::MutexLock lock(&mutex_);
  lists_.erase(hits);
}

void KnownPages::Watch(IdFilter* filter) {
  absl::MutexLock lock(&mutex_);
  watching_ = filter;
  for (const HitList* hits : lists_) hits->AddTo(filter);
}

void KnownPages::StopWatching() {
  absl::MutexLock lock(&mutex_);
  watching_ = nullptr;
}

void KnownPages::NoteNew(absl::Span<const IndexEntry> entries) {
  absl::ReaderMutexLock lock(&mutex_);
  if (watching_ == nullptr) return;
  for (const IndexEntry& entry : entries) watching_->Insert(entry.id);
}

absl::Status KnownPages::Drop(
    absl::Span<const PageId> ids,
    absl::FunctionRef<absl::Status(const std::vector<PageId>& dropped)> erase) {
  absl::MutexLock lock(&mutex_);
  INCR_CHECK(watching_ != nullptr);
  std::vector<PageId> dropped;
  for (const PageId& id : ids) {
    if (watching_->MayContain(id)) continue;
    ids_.erase(id);
    dropped.push_back(id);
  }
  ++drops_;
  if (dropped.empty()) return absl::OkStatus();
  return erase(dropped);
}

void HitList::Add(absl::Span<const PageId> ids) {
  absl::MutexLock lock(&mutex_);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  if (ids_.size() < thin_at_) return;
  std::sort(ids_.begin(), ids_.end());
  ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
  thin_at_ = std::max(thin_at_, 2 * ids_.size());
}

void HitList::AddTo(IdFilter* filter) const {
  absl::MutexLock lock(&mutex_);
  for (const PageId& id : ids_) filter->Insert(id);
}

size_t KnownPages::in_memory() const {
  absl::ReaderMutexLock lock(&mutex_);
  return ids_.size();
}

}  // namespace incr
