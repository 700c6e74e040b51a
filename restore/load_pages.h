// load_pages.h — the epoch's pages into the child's memory, every one checked against its
// hash by the store before it comes here.
//
// The store decodes on this thread while a second one writes into the child: either alone
// is about 3 GB/s, and one after the other would be half that.
#ifndef INCR_CKPT_RESTORE_LOAD_PAGES_H_
#define INCR_CKPT_RESTORE_LOAD_PAGES_H_

#include "absl/status/status.h"
#include "process/remote_memory.h"
#include "restore/plan.h"
#include "restore/sources.h"
#include "store/store.h"

namespace incr {

// Pages of the process's own and of its shared anonymous memory. kDataLoss: a page failed its hash.
absl::Status LoadPrivatePages(const StoreReader& store, const RestorePlan& plan,
                              const RemoteMemory& memory, const OpenSources& sources);

// Reads the pages of shared writable files for their hashes' sake alone. kDataLoss: one failed.
absl::Status VerifyFilePages(const StoreReader& store, const RestorePlan& plan);

// Pages of shared writable files: written where the file differs; holes of the epoch are
// emptied. It cannot be undone: the last step, when nothing else can fail any more.
// REQUIRES: VerifyFilePages was OK, else a damaged page is met with half of the file written.
absl::Status WriteBackFilePages(const StoreReader& store, const RestorePlan& plan,
                                const OpenSources& sources);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_LOAD_PAGES_H_
