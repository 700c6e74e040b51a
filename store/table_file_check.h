// table_file_check.h — may RocksDB be shown this table file? It reads a file's list of properties before it looks at
// the checksum, and Debian's RocksDB (7.8.3) has its assertions: a flipped bit there would abort the process.
//
// What is checked, of format_version 5 and older: the footer's type of checksum, which nothing else guards, and the
// checksums of the two blocks that are read like that. All other blocks RocksDB checks before it uses them.
//
// Thread-safe.
#ifndef INCR_CKPT_STORE_TABLE_FILE_CHECK_H_
#define INCR_CKPT_STORE_TABLE_FILE_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace incr {

// `read`: so many bytes at an offset, less at the end of the file. kDataLoss: it is damaged; no path in the message.
// A file that is none of RocksDB's at all, or of a later format, is left to RocksDB: OK.
absl::Status CheckTableFile(uint64_t size,
                            absl::FunctionRef<absl::StatusOr<std::string>(uint64_t offset, size_t bytes)> read);

}  // namespace incr

#endif  // INCR_CKPT_STORE_TABLE_FILE_CHECK_H_
