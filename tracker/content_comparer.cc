#include "tracker/content_comparer.h"

#include <utility>

namespace incr {
namespace {

constexpr uint64_t kHeartbeatPages = (64 << 20) / kPageSize;

}  // namespace

void ContentComparer::Begin() {
  current_ = PageHashes();
  changed_.Clear();
  content_.Clear();
  cursor_.emplace(durable_);
}

void ContentComparer::Visit(uint64_t page, const uint8_t* bytes) {
  const PageHash hash = hasher_.Hash(bytes);
  const PageHash* before = cursor_->Find(page);
  if (before == nullptr || *before != hash) changed_.Add({page, 1});
  content_.Add({page, 1});
  current_.Append(page, hash);
  if (++visited_ % kHeartbeatPages == 0 && heartbeat_) heartbeat_();
}

void ContentComparer::Keep() {
  durable_ = std::move(current_);
  current_ = PageHashes();
}

void ContentComparer::Reset() {
  durable_ = PageHashes();
  Begin();
}

}  // namespace incr
