// kv_salvage.h — what can still be read of a damaged database.
//
// Works on a copy: table files as hard links (RocksDB never changes one), the rest copied. RocksDB's own repair
// takes whole table files and goes on behind damage in logs; of a table file that it gives up, every readable
// block is read here. Records say by their checksums whether they are whole: nothing salvaged is believed.
//
// Thread-safe, on different directories.
#ifndef INCR_CKPT_STORE_KV_SALVAGE_H_
#define INCR_CKPT_STORE_KV_SALVAGE_H_

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/kv_db.h"

namespace incr {

// A database in `copy` (made here, must not exist) with every record of the one in `path` that can be read.
// kDataLoss: there is none. Any other error: the copy could not be made.
absl::StatusOr<std::unique_ptr<KvDb>> SalvageDatabase(const std::string& path, const std::string& copy,
                                                      FileIo io = FileIo());

// The rows of one table file, passing over blocks that are damaged. An error: nothing of it can be read.
absl::Status ReadTableFile(
    const std::string& path,
    absl::FunctionRef<absl::Status(KvTable table, absl::string_view key, absl::string_view value)> row,
    FileIo io = FileIo());

}  // namespace incr

#endif  // INCR_CKPT_STORE_KV_SALVAGE_H_
