// memory_oracle.h — all saved memory of a stopped process, read the slow way, to hold
// an epoch against.
//
// For every populated page (/proc/<pid>/pagemap, bits 62 and 63) of a mapping whose bytes
// belong into an epoch: its content's hash. Independent of trackers and of PAGEMAP_SCAN.
// Tests only; not thread-safe.
#ifndef INCR_CKPT_CHECKPOINT_MEMORY_ORACLE_H_
#define INCR_CKPT_CHECKPOINT_MEMORY_ORACLE_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "process/process_handle.h"
#include "store/store.h"

namespace incr {

struct OracleImage {
  std::map<uint64_t, uint64_t> pages;  // populated: page number -> hash of its content
  std::map<uint64_t, uint64_t> mapped;  // [first, end) page numbers of mappings that are saved
  PageSet dontdump;  // marked MADV_DONTDUMP in that moment: an epoch need not have these
};

// The target is stopped.
absl::StatusOr<OracleImage> ReadOracle(const ProcessHandle& process);

// OK if the epoch's image, background content included, equals the oracle: every populated
// page has its bytes; every page in the table is mapped, and if not populated it is zero or
// the file's. What was marked MADV_DONTDUMP may be missing if the image says so. The error names the first page that differs.
absl::Status CompareWithOracle(const StoreReader& store, const std::string& job, uint64_t epoch,
                               const OracleImage& oracle);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_MEMORY_ORACLE_H_
