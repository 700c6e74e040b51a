// remake_index.h — for the store's tests: the index is lost, and made anew from what the packs say of themselves.
#ifndef INCR_CKPT_STORE_REMAKE_INDEX_H_
#define INCR_CKPT_STORE_REMAKE_INDEX_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/status.h"
#include "store/kv_db.h"
#include "store/repair.h"

namespace incr {

inline absl::StatusOr<RepairResult> RemakeIndex(const std::string& store) {
  {
    INCR_ASSIGN_OR_RETURN(const std::unique_ptr<KvDb> db, KvDb::Open(store + "/db", KvDb::Mode::kReadWriteCutLog));
    INCR_RETURN_IF_ERROR(db->DeleteAll(KvTable::kPages));
    INCR_RETURN_IF_ERROR(db->Sync());
  }
  return RepairStore(store, {});
}

}  // namespace incr

#endif  // INCR_CKPT_STORE_REMAKE_INDEX_H_
