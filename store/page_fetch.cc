#include "store/page_fetch.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/page_range.h"
#include "base/parallel_for.h"
#include "base/status.h"
#include "store/direct_lane.h"
#include "store/page_index.h"

namespace incr {
namespace {

constexpr size_t kBatchPages = 256;              // 1 MiB decoded
constexpr uint64_t kBatchBytes = 1u << 20;       // of pack, gaps included
constexpr uint64_t kMaxGap = 32u << 10;          // reading over it beats another read
constexpr size_t kReadyBatches = 8;              // decoded and not yet handed out
constexpr unsigned kMaxHelpers = 3;
constexpr size_t kDirectBatches = 8;  // fewer: through the page cache
constexpr size_t kFewIds = 16384;     // so many are looked up by one thread

struct Wanted {  // one body and everyone who wants it
  PageId id;
  PageLocation location;
  size_t first = 0, end = 0;  // in Plan::wishes
};

struct Plan {
  std::vector<std::pair<PageId, size_t>> wishes;  // id, index; by id
  std::vector<Wanted> bodies;                     // by place
  std::vector<std::pair<size_t, size_t>> batches;  // runs of bodies
};

// Where the bodies lie; `ids` are theirs. On all cores: opened cold, a restore of 1 GiB spent a fifth of its time here.
absl::Status Locate(const KvDb& db, absl::Span<const PageId> ids, Plan* plan) {
  const size_t parts = ids.size() <= kFewIds ? 1 : ParallelFor::HelpersForThisMachine() + 1;
  std::vector<absl::Status> statuses(parts);
  const auto part = [&](size_t n) {
    const size_t first = ids.size() * n / parts, end = ids.size() * (n + 1) / parts;
    statuses[n] = FindPages(db, ids.subspan(first, end - first), [&](size_t i, const PageLocation& location) {
      plan->bodies[first + i].location = location;
      return absl::OkStatus();
    });
  };
  if (parts == 1) {
    part(0);
  } else {
    ParallelFor(static_cast<int>(parts) - 1).Run(parts, part);
  }
  for (const absl::Status& status : statuses) INCR_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

absl::StatusOr<Plan> MakePlan(const KvDb& db, absl::Span<const PageId> ids) {
  Plan plan;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!ids[i].is_zero_page()) plan.wishes.emplace_back(ids[i], i);
  }
  std::sort(plan.wishes.begin(), plan.wishes.end());
  std::vector<PageId> unique;
  for (size_t i = 0; i < plan.wishes.size(); ++i) {
    if (i == 0 || plan.wishes[i].first != plan.wishes[i - 1].first) {
      unique.push_back(plan.wishes[i].first);
      plan.bodies.push_back({plan.wishes[i].first, {}, i, i});
    }
    plan.bodies.back().end = i + 1;
  }
  INCR_RETURN_IF_ERROR(Locate(db, unique, &plan));
  for (const Wanted& body : plan.bodies) {
    if (body.location.length == 0) {
      return absl::DataLossError(absl::StrCat("page ", PageIdText(body.id),
                                              " is not in the index: `incr-ckpt repair` makes it anew from the packs"));
    }
  }
  std::sort(plan.bodies.begin(), plan.bodies.end(), [](const Wanted& a, const Wanted& b) {
    return a.location.pack != b.location.pack ? a.location.pack < b.location.pack
                                              : a.location.offset < b.location.offset;
  });
  for (size_t i = 0; i < plan.bodies.size(); ++i) {
    const PageLocation& at = plan.bodies[i].location;
    if (!plan.batches.empty()) {
      auto& [first, end] = plan.batches.back();
      const PageLocation& start = plan.bodies[first].location;
      const PageLocation& last = plan.bodies[end - 1].location;
      if (start.pack == at.pack && end - first < kBatchPages &&
          at.offset <= last.end() + kMaxGap && at.end() - start.offset <= kBatchBytes) {
        ++end;
        continue;
      }
    }
    plan.batches.emplace_back(i, i + 1);
  }
  return plan;
}

uint64_t BytesOf(const Plan& plan, size_t batch) {
  const auto [first, end] = plan.batches[batch];
  uint64_t bytes = 0;  // A damaged index may have bodies that overlap.
  for (size_t i = first; i < end; ++i) {
    bytes = std::max(bytes, plan.bodies[i].location.end() - plan.bodies[first].location.offset);
  }
  return bytes;
}

struct Ready {
  size_t batch = 0;
  absl::Status status;
  std::unique_ptr<uint8_t[]> pages;
};

class Fetcher {
 public:
  Fetcher(const Plan& plan, const PackReader& reader) : plan_(plan), reader_(reader), packs_(reader) {
    for (const auto& [first, end] : plan.batches) buffer_pages_ = std::max(buffer_pages_, end - first);
  }
  ~Fetcher() {
    {
      absl::MutexLock lock(&mutex_);
      next_ = plan_.batches.size();
      cancelled_ = true;
    }
    for (std::thread& helper : helpers_) helper.join();
  }

  void StartHelpers() {
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    const size_t most = std::min<size_t>(std::min(cores - 1, kMaxHelpers), plan_.batches.size() / 4);
    for (size_t i = 0; i < most; ++i) {
      try {
        helpers_.emplace_back([this] { Help(); });
      } catch (const std::system_error&) {
        return;  // Fewer hands; the caller's thread decodes too.
      }
    }
  }

  // The caller's thread: hands out what is ready, decodes when nothing is.
  absl::Status Run(absl::FunctionRef<absl::Status(size_t, const uint8_t*)> sink) {
    Lane lane(this);
    for (size_t done = 0; done < plan_.batches.size(); ++done) {
      Ready ready;
      if (!TakeReady(&ready) && !lane.Next(&ready)) WaitReady(&ready);
      INCR_RETURN_IF_ERROR(ready.status);
      INCR_RETURN_IF_ERROR(HandOut(ready, sink));
      Recycle(std::move(ready.pages));
    }
    return absl::OkStatus();
  }

 private:
  // One thread's batches: claimed, read, several at a time where that works, and decoded.
  class Lane {
   public:
    explicit Lane(Fetcher* fetcher) : fetcher_(fetcher) {
      if (fetcher->plan_.batches.size() >= kDirectBatches) direct_ = DirectLane::Create(&fetcher->packs_, kBatchBytes);
    }
    // False: no batch is left to claim, and none on its way.
    bool Next(Ready* ready) {
      size_t batch = 0;
      while (direct_ != nullptr && direct_->has_room() && fetcher_->Claim(&batch)) {
        const PageLocation& start = fetcher_->plan_.bodies[fetcher_->plan_.batches[batch].first].location;
        if (direct_->Start(start.pack, start.offset, BytesOf(fetcher_->plan_, batch), batch)) continue;
        *ready = fetcher_->ReadBatch(batch);
        return true;
      }
      if (direct_ != nullptr && !direct_->idle()) {
        const DirectLane::Run run = direct_->Wait();
        *ready = run.bytes != nullptr ? fetcher_->DecodeBatch(run.tag, run.bytes) : fetcher_->ReadBatch(run.tag);
        direct_->Release(run);
        return true;
      }
      if (!fetcher_->Claim(&batch)) return false;
      *ready = fetcher_->ReadBatch(batch);
      return true;
    }

   private:
    Fetcher* const fetcher_;
    std::unique_ptr<DirectLane> direct_;
  };

  bool Claim(size_t* batch) {
    absl::MutexLock lock(&mutex_);
    if (next_ >= plan_.batches.size()) return false;
    *batch = next_++;
    return true;
  }

  void Help() {
    Lane lane(this);
    for (Ready ready; lane.Next(&ready);) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Fetcher* f) { return f->cancelled_ || f->ready_.size() < kReadyBatches; }, this));
      if (cancelled_) return;
      ready_.push_back(std::move(ready));
    }
  }

  bool TakeReady(Ready* ready) {
    absl::MutexLock lock(&mutex_);
    if (ready_.empty()) return false;
    *ready = std::move(ready_.front());
    ready_.pop_front();
    return true;
  }

  void WaitReady(Ready* ready) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(+[](Fetcher* f) { return !f->ready_.empty(); }, this));
    *ready = std::move(ready_.front());
    ready_.pop_front();
  }

  std::unique_ptr<uint8_t[]> TakeBuffer() {
    absl::MutexLock lock(&mutex_);
    if (spare_.empty()) return std::unique_ptr<uint8_t[]>(new uint8_t[buffer_pages_ * kPageSize]);
    std::unique_ptr<uint8_t[]> buffer = std::move(spare_.back());
    spare_.pop_back();
    return buffer;
  }
  void Recycle(std::unique_ptr<uint8_t[]> buffer) {
    absl::MutexLock lock(&mutex_);
    spare_.push_back(std::move(buffer));
  }

  // Through the page cache.
  Ready ReadBatch(size_t batch) {
    const PageLocation& start = plan_.bodies[plan_.batches[batch].first].location;
    const uint64_t bytes = BytesOf(plan_, batch);
    const std::unique_ptr<uint8_t[]> raw(new uint8_t[bytes]);
    if (absl::Status read = reader_.ReadRun(start.pack, start.offset, bytes, raw.get()); !read.ok()) {
      return {batch, std::move(read), nullptr};
    }
    return DecodeBatch(batch, raw.get());
  }

  // `raw`: the bytes of the pack from the batch's first body on.
  Ready DecodeBatch(size_t batch, const uint8_t* raw) {
    Ready ready{batch, absl::OkStatus(), TakeBuffer()};
    const auto [first, end] = plan_.batches[batch];
    const PageLocation& start = plan_.bodies[first].location;
    for (size_t i = first; i < end && ready.status.ok(); ++i) {
      const Wanted& body = plan_.bodies[i];
      ready.status = reader_.Decode(body.id, body.location, raw + (body.location.offset - start.offset),
                                    ready.pages.get() + (i - first) * kPageSize);
    }
    return ready;
  }

  absl::Status HandOut(const Ready& ready,
                       absl::FunctionRef<absl::Status(size_t, const uint8_t*)> sink) const {
    const auto [first, end] = plan_.batches[ready.batch];
    for (size_t i = first; i < end; ++i) {
      for (size_t wish = plan_.bodies[i].first; wish < plan_.bodies[i].end; ++wish) {
        INCR_RETURN_IF_ERROR(
            sink(plan_.wishes[wish].second, ready.pages.get() + (i - first) * kPageSize));
      }
    }
    return absl::OkStatus();
  }

  const Plan& plan_;
  const PackReader& reader_;
  DirectPacks packs_;
  size_t buffer_pages_ = 0;  // of the largest batch: a single page needs no megabyte
  absl::Mutex mutex_;
  size_t next_ = 0;
  bool cancelled_ = false;
  std::deque<Ready> ready_;
  std::vector<std::unique_ptr<uint8_t[]>> spare_;
  std::vector<std::thread> helpers_;
};

}  // namespace

absl::Status FetchPages(const KvDb& db, const PackReader& reader, absl::Span<const PageId> ids,
                        absl::FunctionRef<absl::Status(size_t index, const uint8_t* page)> sink) {
  INCR_ASSIGN_OR_RETURN(const Plan plan, MakePlan(db, ids));
  static constexpr uint8_t kZeros[kPageSize] = {};
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i].is_zero_page()) INCR_RETURN_IF_ERROR(sink(i, kZeros));
  }
  Fetcher fetcher(plan, reader);
  fetcher.StartHelpers();
  return fetcher.Run(sink);
}

}  // namespace incr
