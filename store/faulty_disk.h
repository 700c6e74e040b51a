// faulty_disk.h — for the store's tests: a disk that fails when told to, behind the seam of file_io.h.
//
// Counts the calls that change something. The Nth after Arm() fails in the given way: that one alone, or from there on
// every one (a full disk stays full). Thread-safe.
#ifndef INCR_CKPT_STORE_FAULTY_DISK_H_
#define INCR_CKPT_STORE_FAULTY_DISK_H_

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <string>

#include "store/file_io.h"

namespace incr {

struct DiskFault {
  int error = 0;             // 0: a short write or a flipped read
  size_t bytes = SIZE_MAX;   // of a write that get through
  bool lasting = false;
  bool on_reads = false;     // count reads, not changes
  bool flip_bits = false;
  bool ignore_syncs = false;  // syncs, allocations and removals succeed (a full disk refuses none of them)
};

class FaultyDisk : public FileFaults {
 public:
  // The `at`th call from now, from 1; 0: none, only count.
  void Arm(const DiskFault& fault, uint64_t at) {
    std::lock_guard lock(mutex_);
    fault_ = fault;
    at_ = at;
    calls_ = 0;
    hit_.clear();
  }
  void Disarm() { Arm({}, 0); }
  uint64_t calls() const {
    std::lock_guard lock(mutex_);
    return calls_;
  }
  // What the fault hit first; "" if it was never reached.
  std::string hit() const {
    std::lock_guard lock(mutex_);
    return hit_;
  }

  Verdict Before(const FileCall& call) override {
    std::lock_guard lock(mutex_);
    if (!Counts(call.op)) return {};
    ++calls_;
    if (at_ == 0 || calls_ < at_ || (calls_ > at_ && !fault_.lasting)) return {};
    if (hit_.empty()) hit_ = call.path;
    Verdict verdict;
    verdict.error = fault_.error;
    verdict.flip_bits = fault_.flip_bits;
    if (call.op == FileOp::kWrite && fault_.bytes != SIZE_MAX) {
      // At least one byte, or it would never end; not all, or it would be no fault.
      verdict.bytes = std::max<size_t>(1, std::min(fault_.bytes, call.bytes - 1));
    }
    return verdict;
  }

 private:
  bool Counts(FileOp op) const {
    switch (op) {
      case FileOp::kRead: return fault_.on_reads;
      case FileOp::kOpen: return false;
      case FileOp::kSync:
      case FileOp::kSyncDirectory:
      case FileOp::kUnlink: return !fault_.on_reads && !fault_.ignore_syncs;
      default: return !fault_.on_reads;
    }
  }

  mutable std::mutex mutex_;
  DiskFault fault_;
  uint64_t at_ = 0, calls_ = 0;
  std::string hit_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_FAULTY_DISK_H_
