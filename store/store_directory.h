// store_directory.h — what lies where in a store's directory, and who may write there.
//
//   FORMAT   text, its first line "version 1"; written last, so a half-made store has none
//   secret   192 random bytes, mode 0600: page ids are hashes under it
//   lock     the writer holds a flock on it
//   commits  how many commits were acknowledged (commit_count.h)
//   generation  how often gc deleted packs (reader_lease.h)
//   packs/   page bodies          db/   RocksDB: index, epochs
//
// Thread-safe.
#ifndef INCR_CKPT_STORE_STORE_DIRECTORY_H_
#define INCR_CKPT_STORE_STORE_DIRECTORY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "store/file_io.h"

namespace incr {

inline constexpr int kStoreVersion = 1;
inline constexpr size_t kSecretBytes = 192;

struct StorePaths {
  explicit StorePaths(std::string directory, FileIo file_io = FileIo());
  std::string root, format, secret, lock, commits, generation, packs, db, repair;
  FileIo io;
};

struct StoreIdentity {
  std::string secret;
  uint64_t tag = 0;  // says in packs whose secret their ids are under
};

// kNotFound: no such directory. kFailedPrecondition: not a store, or of a newer version, or a symbolic link in
// it. kPermissionDenied: another user's.
absl::StatusOr<StoreIdentity> ReadIdentity(const StorePaths& paths);

// kFailedPrecondition: an interrupted repair waits to be finished. Its new database refers to packs that a
// writer who opens the old one would take for leftovers. Under the writer's lock.
absl::Status CheckNoRepairIsReady(const StorePaths& paths);

// Whether there is a FORMAT, be it what it may.
bool HasFormat(const StorePaths& paths);
// FORMAT and secret made whole again, where that can be: FORMAT from the secret; one wrong byte of the secret from
// its tag in FORMAT or in a pack. Returns whether one of them was damaged and can be mended; then, unless
// `dry_run`, it has been. False: ReadIdentity() says what is wrong, if anything.
absl::StatusOr<bool> RepairIdentity(const StorePaths& paths, bool dry_run);

// Held until the descriptor closes. kFailedPrecondition "locked" names the holder's pid.
absl::StatusOr<ScopedFd> LockForWriting(const StorePaths& paths);

// Before it is written to: mode 0700, whatever it was.
absl::Status CloseToOthers(const StorePaths& paths);

// Makes the directory (and its parents) if it is absent. kFailedPrecondition unless it is then
// a store, empty, or a store whose making was cut short.
absl::Status PrepareDirectory(const StorePaths& paths);

// Under the lock: secret and subdirectories, unless they are there. FORMAT is still missing.
absl::Status CreateParts(const StorePaths& paths);
// The last step: now it is a store.
absl::Status WriteFormat(const StorePaths& paths);

}  // namespace incr

#endif  // INCR_CKPT_STORE_STORE_DIRECTORY_H_
