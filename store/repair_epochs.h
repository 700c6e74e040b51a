// repair_epochs.h — the epochs that can be saved, from one database into another, for repair.cc.
#ifndef INCR_CKPT_STORE_REPAIR_EPOCHS_H_
#define INCR_CKPT_STORE_REPAIR_EPOCHS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "store/kv_db.h"
#include "store/repair.h"

namespace incr {

struct SavedEpochs {
  uint64_t kept = 0;
  uint64_t rewritten = 0;  // of those: got a full table, since an ancestor's record was dropped
  std::vector<DroppedEpoch> dropped;
};

// Copies every epoch whose record, image, manifest and chain are whole and whose pages are all in the index of
// `into`. One whose chain leads through a dropped epoch gets a full table, and the nearest kept ancestor as its
// parent. Jobs keep their heads: no number is given twice.
absl::StatusOr<SavedEpochs> SaveEpochs(const KvDb& from, KvDb* into);

}  // namespace incr

#endif  // INCR_CKPT_STORE_REPAIR_EPOCHS_H_
