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

absl::Status KnownPages::Find(absl::Span<const PageId> ids, std::vector<bool>* known) const {
  known->assign(ids.size(), false);
  std::vector<PageId> rest;
  {
    absl::ReaderMutexLock lock(&mutex_);
    for (size_t i = 0; i < ids.size(); ++i) (*known)[i] = ids_.contains(ids[i]);
    if (complete_) return absl::OkStatus();
  }
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

size_t KnownPages::in_memory() const {
  absl::ReaderMutexLock lock(&mutex_);
  return ids_.size();
}

}  // namespace incr
