// rocks_files.h — the files of the store's RocksDB: mode 0600 whatever the umask, and behind the same seam as all
// others (file_io.h). EINTR and short counts are answered within RocksDB's own files, beneath this.
// Thread-safe.
#ifndef INCR_CKPT_STORE_ROCKS_FILES_H_
#define INCR_CKPT_STORE_ROCKS_FILES_H_

#include <rocksdb/env.h>

#include <memory>

#include "store/file_io.h"

namespace incr {

// For DBOptions::env. Outlives the database.
std::unique_ptr<rocksdb::Env> NewRocksEnv(FileIo io);

}  // namespace incr

#endif  // INCR_CKPT_STORE_ROCKS_FILES_H_
