// session.h — start here: process -> epoch, again and again.
//
//   pre-copy while it runs -> freeze -> last pages and state -> thaw -> store -> commit
//
// Only what must be one instant happens in the freeze: no hashing, no compression, no disk.
// ptrace is done by an agent process (agent.h), so that no death of ours can leave
// the target with foreign registers.
//
// Thread safety: none; one session belongs to one thread.
#ifndef INCR_CKPT_CHECKPOINT_SESSION_H_
#define INCR_CKPT_CHECKPOINT_SESSION_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"
#include "checkpoint/huge_pages.h"
#include "proto/epoch.pb.h"
#include "store/store.h"

namespace incr {

struct SessionOptions {
  std::string job;
  std::string tracker;             // "": the best that works
  bool allow_unsupported = false;
  bool save_file_pages = false;    // unmodified pages of mapped files too (file_pages.h)
  bool include_dontdump = false;   // save MADV_DONTDUMP memory too (excluded_memory.h)
  std::vector<std::string> agent_command;  // argv of the agent; the socket's number is appended
  int max_precopy_rounds = 5;
  uint64_t precopy_target_pages = 64;     // freeze when a round found no more than this
  uint64_t arm_first_pages = 1024;        // new memory beyond this is armed in a stop of its own first
  int64_t flags_fresh_us = 1'000'000;     // VmFlags may be so old; a new layout has them read anew
  uint64_t frozen_buffer_bytes = 256u << 20;  // more than this left at the freeze: streamed while frozen
  // Called in every freeze after the last pages were copied: an oracle's chance to read all of
  // the target's memory in the same instant (tests).
  std::function<void()> while_frozen;
};

struct EpochResult {
  pb::EpochRecord record;
  std::vector<std::string> warnings;
};

class CheckpointSession {
 public:
  virtual ~CheckpointSession() = default;  // Tracking ends; the target runs on.

  // Attaches; the first epoch is full.
  static absl::StatusOr<std::unique_ptr<CheckpointSession>> Start(Store* store, pid_t pid,
                                                                  const SessionOptions& options);

  // A process that someone holds stopped, just restored to `epoch` of options.job;
  // `uffd` was created in it. The next epoch is incremental against `epoch`.
  static absl::StatusOr<std::unique_ptr<CheckpointSession>> Adopt(Store* store, pid_t pid,
                                                                  uint64_t epoch, ScopedFd uffd,
                                                                  const SessionOptions& options);

  // One epoch, durable when it returns OK. On an error nothing was committed, the target runs,
  // and the next epoch holds what this one would have. kNotFound: the target has exited.
  virtual absl::StatusOr<EpochResult> TakeEpoch() = 0;

  virtual bool target_alive() const = 0;
  virtual int target_pidfd() const = 0;  // for poll(); owned by the session
  virtual std::string tracker_name() const = 0;

  // Huge pages that came apart while it was tracked, as of the last look.
  virtual HugePageCount huge_pages() const = 0;

  // The last call: tracking ends, the target runs on. With `collapse` its split huge pages are mended after
  // that, in about 0.3 ms each.
  virtual HugePageCount EndTracking(bool collapse) = 0;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_SESSION_H_
