// store_location.h — which directory is the store.
#ifndef INCR_CKPT_CLI_STORE_LOCATION_H_
#define INCR_CKPT_CLI_STORE_LOCATION_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace incr {

struct StoreEnvironment {
  std::function<const char*(const char* name)> getenv;
  bool is_root = false;
  std::string current_directory;
};
StoreEnvironment ThisProcessEnvironment();

// Absolute, not necessarily there. `option` is --store, may be empty; then
// INCR_CKPT_STORE, /var/lib/incr-ckpt for root, $XDG_STATE_HOME/incr-ckpt,
// ~/.local/state/incr-ckpt.
absl::StatusOr<std::string> LocateStore(const std::string& option,
                                        const StoreEnvironment& environment);

// Makes the directory (mode 0700: it will hold the memory of processes) and those above it.
// Returns whether it was made. One that exists is left alone, whatever it holds.
absl::StatusOr<bool> MakeStoreDirectory(const std::string& store);

}  // namespace incr

#endif  // INCR_CKPT_CLI_STORE_LOCATION_H_
