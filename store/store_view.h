// store_view.h — the reading half that StoreReader and Store share.
// Thread-safe.
#ifndef INCR_CKPT_STORE_STORE_VIEW_H_
#define INCR_CKPT_STORE_STORE_VIEW_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "store/catalog.h"
#include "store/kv_db.h"
#include "store/pack_reader.h"
#include "store/page_id.h"
#include "store/reader_lease.h"
#include "store/store_directory.h"

namespace incr {

struct StoreView {
  StoreView(const StorePaths& store_paths, StoreIdentity store_identity,
            std::unique_ptr<KvDb> database, std::optional<ReaderLease> reader_lease = std::nullopt)
      : lease(std::move(reader_lease)),
        paths(store_paths),
        identity(std::move(store_identity)),
        db(std::move(database)),
        hasher(identity.secret),
        catalog(db.get()),
        packs(paths.packs, &hasher, paths.io) {}

  const std::optional<ReaderLease> lease;  // a reader's, taken before `db` was opened
  const StorePaths paths;
  const StoreIdentity identity;
  const std::unique_ptr<KvDb> db;
  const PageHasher hasher;
  const Catalog catalog;
  const PackReader packs;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_STORE_VIEW_H_
