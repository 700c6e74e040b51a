// write_tracker.h — which pages of one process were written since the last epoch.
//
// No lost write: a page written after Arm() is in the result of the next Take*(), or of
// a later one if that epoch never became durable. Reporting a clean page costs
// space; missing a dirty one corrupts a restore.
//
// One epoch:  TakeRunning()* -> TakeFrozen() -> EpochDurable() | EpochFailed()
//
// Where content is compared ("compare"; shared memory with every back end) changes are in
// TakeFrozen() only: a page that reads A when hashed, B when copied and A again at the freeze
// would otherwise be saved as B. After an error of a Take the tracker may still be used: what it had
// read is owed and comes with the next Take.
//
// A Take is a destructive read; the tracker remembers what it handed out since
// the last EpochDurable() and hands it out again after EpochFailed().
//
// Thread safety: none; one tracker belongs to one checkpoint session.
#ifndef INCR_CKPT_TRACKER_WRITE_TRACKER_H_
#define INCR_CKPT_TRACKER_WRITE_TRACKER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "process/memory_map.h"
#include "process/process_handle.h"

namespace incr {

struct TakenPages {
  PageSet written;  // copy these
  // TakeFrozen only: pages of the last epoch's table, or handed out since, that have no content of
  // their own any more (dropped, unmapped, back to the file's): the table must forget them.
  PageSet gone;
  PageSet excluded;  // TakeFrozen only: had content, but Exclude() named them; in none of the others
  uint64_t pages_scanned = 0;  // populated pages looked at
};

class WriteTracker {
 public:
  virtual ~WriteTracker() = default;
  virtual absl::string_view name() const = 0;  // "uffd-wp-async", "soft-dirty", "uffd-wp", "compare"

  // Starts tracking. `known`: pages whose content equals the last epoch's table
  // (a restore that goes on); empty: the first epoch takes everything. With a
  // non-empty `known` the target must be stopped.
  virtual absl::Status Arm(const MemoryMap& map, const PageSet& known) = 0;

  // Memory that is new to the tracker (mapped, moved or grown since the last freeze) is first seen
  // at the next freeze. Where that is much, one stops the target for a moment before the pre-copy:
  // CountUnarmed() says how many pages TakeRunning cannot hand out yet (target running or not), and
  // ArmNew(), target stopped and `map` read in the same stop, lets it. Never needed for correctness.
  virtual absl::StatusOr<uint64_t> CountUnarmed(const MemoryMap& map) { return 0; }
  virtual absl::Status ArmNew(const MemoryMap& map) { return absl::OkStatus(); }

  // Just before a freeze: brings what TakeFrozen will walk into this CPU's caches. Changes nothing.
  virtual void LookAhead(const MemoryMap& map) {}

  // A pre-copy round while the target runs; `map` was read just before.
  virtual absl::StatusOr<TakenPages> TakeRunning(const MemoryMap& map) = 0;

  // The next TakeFrozen (and only that one) takes these pages for empty: what the table has of them is
  // gone. When they are excluded no more, all their content is written again.
  virtual void Exclude(PageSet pages) = 0;

  // The last round, target stopped, `map` read in the same stop.
  virtual absl::StatusOr<TakenPages> TakeFrozen(const MemoryMap& map) = 0;

  // Pages handed out but not saved after all (unreadable while running): the next Take has them again.
  virtual void PutBack(const PageSet& pages) = 0;

  // Called now and then while TakeFrozen compares content, which may take seconds.
  virtual void set_heartbeat(std::function<void()> heartbeat) = 0;

  virtual void EpochDurable() = 0;
  virtual void EpochFailed() = 0;

  // A sentence for each mapping that could not be tracked at the last Take and was taken
  // whole instead: never wrong, only slower.
  virtual std::vector<std::string> warnings() const { return {}; }
};

// The back ends there are, best first: what --tracker takes.
std::vector<std::string> TrackerNames();

// UFFD_FEATURE_*: how the userfaultfd is to be created in the target that the back end `name` works
// with; 0: it needs none.
uint64_t UffdFeaturesOfTracker(absl::string_view name);

// `name` is one of TrackerNames(). `uffd`: created in the target with UffdFeaturesOfTracker(name);
// tracking ends when it closes. `process` outlives the tracker.
absl::StatusOr<std::unique_ptr<WriteTracker>> NewWriteTracker(absl::string_view name,
                                                              const ProcessHandle* process,
                                                              ScopedFd uffd);

// Which back end to use: `requested` if not empty (an error names why it cannot work), else the best
// that works here and is none of `avoid` (those that have failed this target). `why` gets a sentence
// for doctor.
absl::StatusOr<std::string> ChooseTracker(absl::string_view requested, std::string* why,
                                          const std::vector<std::string>& avoid = {});

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_WRITE_TRACKER_H_
