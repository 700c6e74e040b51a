// page_fetch.h — many pages out of packs: sorted by place, read in large runs, decoded on as
// many threads as there are cores, handed out on the caller's.
#ifndef INCR_CKPT_STORE_PAGE_FETCH_H_
#define INCR_CKPT_STORE_PAGE_FETCH_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "store/kv_db.h"
#include "store/pack_reader.h"
#include "store/page_id.h"

namespace incr {

// As StoreReader::ReadPages. Thread-safe.
absl::Status FetchPages(const KvDb& db, const PackReader& reader, absl::Span<const PageId> ids,
                        absl::FunctionRef<absl::Status(size_t index, const uint8_t* page)> sink);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_FETCH_H_
