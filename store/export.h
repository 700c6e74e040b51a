// export.h — epochs of one job as one self-contained file (export_format.h).
//
// Memory: 24 bytes for each page and one table, besides what reading the pages takes.
#ifndef INCR_CKPT_STORE_EXPORT_H_
#define INCR_CKPT_STORE_EXPORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "store/store.h"

namespace incr {

struct ExportResult {
  uint64_t pages = 0;  // bodies, each once
  uint64_t bytes = 0;  // of the file
};

// Writes to `fd`, which `name` names in errors. `epochs`: ascending, each once. A parent that is not among them
// is replaced by the nearest ancestor that is. `progress` (may be null) hears of pages done, of how many.
absl::StatusOr<ExportResult> ExportEpochs(const StoreReader& store, const std::string& job,
                                          const std::vector<uint64_t>& epochs, int fd, const std::string& name,
                                          const std::function<void(uint64_t pages, uint64_t of)>& progress);

}  // namespace incr

#endif  // INCR_CKPT_STORE_EXPORT_H_
