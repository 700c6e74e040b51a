// state_queries.h — which calls tell what no file shows, and what their answers mean. Pure.
#ifndef INCR_CKPT_PROCESS_STATE_QUERIES_H_
#define INCR_CKPT_PROCESS_STATE_QUERIES_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "process/remote_batch.h"
#include "process/thread_state.h"

namespace incr {

// Bytes of answers for a process of `threads` threads.
size_t StateAnswerBytes(size_t threads);

// One batch per thread; the first one, the leader's, asks for the process's state as well.
std::vector<ThreadBatch> PlanStateQueries(const std::vector<pid_t>& tids);

// Fills in what the batches asked for: state->threads are those of the batches, in their order. An error
// names the call that failed.
absl::Status ReadStateAnswers(const std::vector<ThreadBatch>& batches, const std::string& answers,
                              FrozenState* state);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_STATE_QUERIES_H_
