// live_heap.h — the memory of real programs as a workload: started here, filled, changed between epochs, read while stopped,
// and ended here, by pid.
#ifndef INCR_CKPT_BENCHMARKS_STORE_SPEED_LIVE_HEAP_H_
#define INCR_CKPT_BENCHMARKS_STORE_SPEED_LIVE_HEAP_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "benchmarks/store_speed/workload.h"

namespace incr::store_speed {

// A redis-server of about `mib` of sessions (JSON, 0.3 to 1.3 KB), on a Unix socket in `directory`, nothing kept on disk; between
// epochs so many sessions change that about 5 % of its pages do.
absl::StatusOr<Workload> RedisHeap(const std::string& directory, uint64_t mib, int changed);
// A python3 of about `mib` of dicts, strings, lists of floats; 1 object in 20, in stretches, is replaced between epochs.
absl::StatusOr<Workload> PythonHeap(uint64_t mib, int changed);

}  // namespace incr::store_speed

#endif  // INCR_CKPT_BENCHMARKS_STORE_SPEED_LIVE_HEAP_H_
