// compare_epochs.h — which pages differ between two epochs of a job, reading no more than it must: of an
// epoch and its parent usually one delta, of two epochs of a chain the older's table and the deltas between
// them, otherwise both tables. Thread-safe.
#ifndef INCR_CKPT_STORE_COMPARE_EPOCHS_H_
#define INCR_CKPT_STORE_COMPARE_EPOCHS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/catalog.h"
#include "store/table_diff.h"

namespace incr {

absl::StatusOr<PageChanges> CompareEpochs(const Catalog& catalog, absl::string_view job,
                                          uint64_t before, uint64_t after);

}  // namespace incr

#endif  // INCR_CKPT_STORE_COMPARE_EPOCHS_H_
