// status.h — what this project adds to absl::Status: errno in words, early
// return, and CHECK for our own bugs (Debian's Abseil has none of the three).
//
// The world fails: return a Status. We fail: CHECK. Thread-safe.
#ifndef INCR_CKPT_BASE_STATUS_H_
#define INCR_CKPT_BASE_STATUS_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace incr {

// Status for errno value `error`. `operation` names the call and its object:
// ErrnoStatus(ESRCH, "pread(/proc/71/mem)") reads "pread(/proc/71/mem): No such process".
// ESRCH and ENOENT become kNotFound, EPERM and EACCES kPermissionDenied, EEXIST
// and EADDRINUSE kAlreadyExists, ENOMEM/ENOSPC/EDQUOT/EMFILE kResourceExhausted,
// EINVAL kInvalidArgument, ENOSYS/EOPNOTSUPP kUnimplemented; others kInternal.
absl::Status ErrnoStatus(int error, absl::string_view operation);

// The same with the calling thread's errno.
absl::Status ErrnoStatus(absl::string_view operation);

// `status` with "context: " in front of its message; OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);
inline const absl::Status& AsStatus(const absl::Status& s) { return s; }
template <typename T>
const absl::Status& AsStatus(const absl::StatusOr<T>& s) {
  return s.status();
}
}  // namespace internal
}  // namespace incr

// Aborts if our own logic is wrong. On in release builds.
#define INCR_CHECK(condition)                                            \
  do {                                                                   \
    if (!(condition)) [[unlikely]]                                       \
      ::incr::internal::CheckFailed(__FILE__, __LINE__, #condition);     \
  } while (false)

#define INCR_RETURN_IF_ERROR(expression)                                 \
  do {                                                                   \
    if (auto&& incr_status = (expression); !incr_status.ok()) [[unlikely]] \
      return ::incr::internal::AsStatus(incr_status);                    \
  } while (false)

#define INCR_CONCAT_INNER(a, b) a##b
#define INCR_CONCAT(a, b) INCR_CONCAT_INNER(a, b)
// INCR_ASSIGN_OR_RETURN(auto fd, Open(path));
#define INCR_ASSIGN_OR_RETURN(lhs, expression) \
  INCR_ASSIGN_OR_RETURN_IMPL(INCR_CONCAT(incr_statusor_, __LINE__), lhs, expression)
#define INCR_ASSIGN_OR_RETURN_IMPL(var, lhs, expression) \
  auto var = (expression);                               \
  if (!var.ok()) [[unlikely]]                            \
    return var.status();                                 \
  lhs = std::move(var).value()

#endif  // INCR_CKPT_BASE_STATUS_H_
