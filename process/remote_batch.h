// remote_batch.h — many system calls in many threads of a frozen process, in one go.
//
// An injected call costs two ptrace stops, about 10 us; the state of a process takes 70 calls and
// five more per thread. So a few instructions of ours are put into scratch memory of the
// target and run there at full speed: they walk a table of calls, raise a flag and wait in
// pause(), where one interrupt stops them in the signal path. Where executable scratch
// memory is refused (SELinux, PR_SET_MDWE) every call is injected by itself.
//
// The tracing thread only.
#ifndef INCR_CKPT_PROCESS_REMOTE_BATCH_H_
#define INCR_CKPT_PROCESS_REMOTE_BATCH_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "process/frozen_process.h"
#include "process/remote_addr.h"
#include "process/thread_state.h"

namespace incr {

struct RemoteCall {  // the layout that the code in remote_batch.cc walks
  int64_t number = 0;
  uint64_t arguments[6] = {};
  int64_t result = 0;  // -4095..-1 is -errno
};
static_assert(sizeof(RemoteCall) == 64);

struct ThreadBatch {
  pid_t tid = 0;
  std::vector<RemoteCall> calls;
};

// Arguments that point into the answers: this plus the offset.
inline constexpr uint64_t kAnswersBase = 0xa11'5000'0000'0000;
inline constexpr uint64_t AnswerAt(uint64_t offset) { return kAnswersBase + offset; }

enum class BatchMode { kFastIfAllowed, kCallByCall };

// Makes all calls and fills in their results; the first batch belongs to the leader. Returns the
// `answer_bytes` that the calls wrote. Each thread rests in the signal path again and has its
// registers and mask back; nothing is left in the target. `scratch`: where the scratch memory was.
absl::StatusOr<std::string> RunRemoteBatches(FrozenProcess& frozen, const InjectionPlan& plan,
                                             size_t answer_bytes, BatchMode mode,
                                             std::vector<ThreadBatch>* batches,
                                             RemoteAddr* scratch);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_REMOTE_BATCH_H_
