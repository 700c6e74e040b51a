#include "cli/store_location.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {

namespace fs = std::filesystem;

StoreEnvironment ThisProcessEnvironment() {
  std::error_code error;
  return {[](const char* name) -> const char* { return std::getenv(name); }, ::geteuid() == 0,
          fs::current_path(error).string()};
}

absl::StatusOr<std::string> LocateStore(const std::string& option,
                                        const StoreEnvironment& environment) {
  const auto variable = [&](const char* name) -> std::string {
    const char* value = environment.getenv(name);
    return value == nullptr ? "" : value;
  };
  std::string store = option;
  if (store.empty()) store = variable("INCR_CKPT_STORE");
  if (store.empty() && environment.is_root) store = "/var/lib/incr-ckpt";
  if (store.empty() && variable("XDG_STATE_HOME").starts_with('/')) {
    store = absl::StrCat(variable("XDG_STATE_HOME"), "/incr-ckpt");
  }
  if (store.empty() && variable("HOME").starts_with('/')) {
    store = absl::StrCat(variable("HOME"), "/.local/state/incr-ckpt");
  }
  if (store.empty()) {
    return absl::InvalidArgumentError("where is the store? Give --store DIR or INCR_CKPT_STORE");
  }
  const fs::path path = fs::path(environment.current_directory) / store;
  if (!path.is_absolute()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--store ", store, ": the current directory is gone"));
  }
  store = path.lexically_normal().string();
  while (store.size() > 1 && store.back() == '/') store.pop_back();
  return store;
}

absl::StatusOr<bool> MakeStoreDirectory(const std::string& store) {
  std::error_code error;
  const fs::path parent = fs::path(store).parent_path();
  fs::create_directories(parent, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("mkdir(", parent.string(), ")"));
  if (::mkdir(store.c_str(), 0700) == 0) return true;
  if (errno == EEXIST) return false;
  return ErrnoStatus(absl::StrCat("mkdir(", store, ")"));
}

}  // namespace incr
