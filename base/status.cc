#include "base/status.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace incr {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ESRCH:
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EPERM:
    case EACCES:
      return absl::StatusCode::kPermissionDenied;
    case EEXIST:
    case EADDRINUSE:
      return absl::StatusCode::kAlreadyExists;
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
      return absl::StatusCode::kResourceExhausted;
    case ENOTDIR:
    case ELOOP:
      return absl::StatusCode::kFailedPrecondition;
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case ENOSYS:
    case EOPNOTSUPP:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view operation) {
  return absl::Status(CodeOf(error), absl::StrCat(operation, ": ", std::strerror(error)));
}

absl::Status ErrnoStatus(absl::string_view operation) { return ErrnoStatus(errno, operation); }

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

namespace internal {

void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "incr-ckpt: bug at %s:%d: CHECK failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace internal
}  // namespace incr
