#include "restore/load_pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr size_t kBatchPages = 256;  // 1 MiB: inside the second-level cache
constexpr size_t kBatches = 4;

// Pages that wait to be written, and where to.
struct Batch {
  std::vector<uint64_t> addresses;
  std::vector<uint8_t> bytes = std::vector<uint8_t>(kBatchPages * kPageSize);
};

// Writes batches into the child from a thread of its own. One producer.
class BackgroundWriter {
 public:
  explicit BackgroundWriter(const RemoteMemory& memory) : memory_(memory) {
    for (size_t i = 0; i < kBatches; ++i) free_.push_back(std::make_unique<Batch>());
    thread_ = std::thread([this] { Run(); });
  }
  ~BackgroundWriter() { (void)Finish(); }

  absl::Status Add(uint64_t address, const uint8_t* page) {
    if (current_ == nullptr) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !free_.empty(); });
      INCR_RETURN_IF_ERROR(status_);
      current_ = std::move(free_.front());
      free_.pop_front();
    }
    memcpy(current_->bytes.data() + current_->addresses.size() * kPageSize, page, kPageSize);
    current_->addresses.push_back(address);
    if (current_->addresses.size() == kBatchPages) Submit();
    return absl::OkStatus();
  }

  // Waits until all is written. Idempotent.
  absl::Status Finish() {
    if (thread_.joinable()) {
      if (current_ != nullptr) Submit();
      {
        std::lock_guard lock(mutex_);
        finished_ = true;
      }
      changed_.notify_all();
      thread_.join();
    }
    return status_;
  }

 private:
  void Submit() {
    {
      std::lock_guard lock(mutex_);
      full_.push_back(std::move(current_));
    }
    changed_.notify_all();
  }

  void Run() {
    for (;;) {
      std::unique_ptr<Batch> batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !full_.empty() || finished_; });
        if (full_.empty()) return;
        batch = std::move(full_.front());
        full_.pop_front();
      }
      const absl::Status status = Write(*batch);
      batch->addresses.clear();
      {
        std::lock_guard lock(mutex_);
        status_.Update(status);
        free_.push_back(std::move(batch));
      }
      changed_.notify_all();
    }
  }

  // Neighbours in one call.
  absl::Status Write(const Batch& batch) const {
    for (size_t i = 0; i < batch.addresses.size();) {
      size_t next = i + 1;
      while (next < batch.addresses.size() &&
             batch.addresses[next] == batch.addresses[next - 1] + kPageSize) {
        ++next;
      }
      INCR_RETURN_IF_ERROR(memory_.Write(RemoteAddr(batch.addresses[i]),
                                         batch.bytes.data() + i * kPageSize,
                                         (next - i) * kPageSize));
      i = next;
    }
    return absl::OkStatus();
  }

  const RemoteMemory& memory_;
  std::unique_ptr<Batch> current_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Batch>> free_, full_;
  absl::Status status_;
  bool finished_ = false;
  std::thread thread_;
};

absl::Status Zero(int fd, uint64_t offset, uint64_t size, const std::string& path) {
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(size)) == 0) {
    return absl::OkStatus();
  }
  const std::vector<uint8_t> zeros(kPageSize);
  for (uint64_t end = offset + size; offset < end;) {
    const size_t part = std::min<uint64_t>(kPageSize, end - offset);
    INCR_RETURN_IF_ERROR(PwriteExactly(fd, zeros.data(), part, offset, path));
    offset += part;
  }
  return absl::OkStatus();
}

// Where the file has data now, it was written after the epoch.
absl::Status EmptyHole(int fd, const PlannedHole& hole, const std::string& path) {
  const uint64_t end = hole.offset + hole.size;
  for (uint64_t at = hole.offset; at < end;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // No data behind `at`.
    const uint64_t start = data < 0 ? at : static_cast<uint64_t>(data);
    if (start >= end) break;
    const off_t behind = ::lseek(fd, static_cast<off_t>(start), SEEK_HOLE);
    const uint64_t stop = behind < 0 ? end : std::min(end, static_cast<uint64_t>(behind));
    INCR_RETURN_IF_ERROR(Zero(fd, start, stop - start, path));
    at = stop;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadPrivatePages(const StoreReader& store, const RestorePlan& plan,
                              const RemoteMemory& memory, const OpenSources& sources) {
  const PlannedPages& own = plan.private_pages;
  if (own.size() > 0) {
    BackgroundWriter writer(memory);
    const absl::Status read = store.ReadPages(own.ids, [&](size_t i, const uint8_t* page) {
      return writer.Add(own.offsets[i], page);
    });
    const absl::Status written = writer.Finish();
    INCR_RETURN_IF_ERROR(read);
    INCR_RETURN_IF_ERROR(written);
  }
  const PlannedPages& shared = plan.object_pages;
  if (shared.size() == 0) return absl::OkStatus();
  return store.ReadPages(shared.ids, [&](size_t i, const uint8_t* page) {
    return PwriteExactly(sources.fds[shared.sources[i]].get(), page, kPageSize, shared.offsets[i],
                         "shared memory");
  });
}

absl::Status VerifyFilePages(const StoreReader& store, const RestorePlan& plan) {
  if (plan.file_pages.size() == 0) return absl::OkStatus();
  return store.ReadPages(plan.file_pages.ids,
                         [](size_t, const uint8_t*) { return absl::OkStatus(); });
}

absl::Status WriteBackFilePages(const StoreReader& store, const RestorePlan& plan,
                                const OpenSources& sources) {
  for (const PlannedHole& hole : plan.file_holes) {
    INCR_RETURN_IF_ERROR(EmptyHole(sources.fds[hole.source].get(), hole,
                                   plan.sources[hole.source].file.path()));
  }
  const PlannedPages& pages = plan.file_pages;
  if (pages.size() == 0) return absl::OkStatus();
  std::vector<uint8_t> present(kPageSize);
  return store.ReadPages(pages.ids, [&](size_t i, const uint8_t* page) -> absl::Status {
    const PlannedSource& source = plan.sources[pages.sources[i]];
    const int fd = sources.fds[pages.sources[i]].get();
    const uint64_t offset = pages.offsets[i];
    if (offset >= source.file.size()) return absl::OkStatus();
    // The last page of a file ends with it; what memory holds behind that is nobody's.
    const size_t size = std::min<uint64_t>(kPageSize, source.file.size() - offset);
    INCR_ASSIGN_OR_RETURN(size_t got, PreadUpTo(fd, present.data(), size, offset,
                                                source.file.path()));
    if (got == size && memcmp(present.data(), page, size) == 0) return absl::OkStatus();
    return PwriteExactly(fd, page, size, offset, source.file.path());
  });
}

}  // namespace incr
