#include "restore/socket_address.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "process/socket_options.h"
#include "process/tcp_orphans.h"

namespace incr {
namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);

size_t MinimalLength(int family) {
  switch (family) {
    case AF_INET:
      return sizeof(sockaddr_in);
    case AF_INET6:
      return sizeof(sockaddr_in6);
    default:
      return sizeof(sa_family_t);
  }
}

// bind() with `directory` as the working directory, in a child, so that ours (which other
// threads share) stays. The open file description, and so the binding, is shared.
int BindFrom(int directory, int fd, const CheckedAddress& address) {
  const pid_t child = ::fork();
  if (child < 0) return errno;
  if (child == 0) {
    if (::fchdir(directory) != 0) ::_exit(errno);
    ::_exit(::bind(fd, address.get(), address.length) == 0 ? 0 : errno);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return errno;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

// Does anybody answer at the socket file? Asked by a connect that never waits.
bool IsLive(int directory, const std::string& path, int type) {
  const std::string full =
      path[0] == '/' ? path : absl::StrCat("/proc/self/fd/", directory, "/", path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (full.size() >= sizeof address.sun_path) return true;  // cannot ask: leave it alone
  std::memcpy(address.sun_path, full.data(), full.size());
  ScopedFd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.ok()) return true;
  if (::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
    return true;
  }
  return errno != ECONNREFUSED && errno != ENOENT;
}

absl::Status ClearStaleSocket(FileBuilder& builder, const pb::OpenFile& file, int directory,
                              const std::string& path) {
  struct stat found{};
  if (::fstatat(directory, path.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return builder.RefuseErrno(file, absl::StrCat("stat(", path, ")"));
  }
  if (!S_ISSOCK(found.st_mode)) {
    return builder.Refuse(file, absl::StrCat("address in use: ", path, " is not a socket now"));
  }
  if (IsLive(directory, path, file.socket().type())) {
    return builder.Refuse(file, absl::StrCat("address in use: another process serves ", path));
  }
  const absl::Status aside = builder.socket_files().SetAside(directory, path);
  return aside.ok() ? aside : builder.Refuse(file, aside.message());
}

absl::Status BindUnixPath(FileBuilder& builder, const pb::OpenFile& file, int fd,
                          const CheckedAddress& address) {
  const std::string path = address.path();
  const bool relative = path[0] != '/';
  const int directory = relative ? builder.cwd() : AT_FDCWD;
  if (relative && directory < 0) {
    return builder.Malformed(file, "has a relative path and no working directory");
  }
  INCR_RETURN_IF_ERROR(ClearStaleSocket(builder, file, directory, path));
  int error = 0;
  if (relative) {
    error = BindFrom(directory, fd, address);
  } else if (::bind(fd, address.get(), address.length) != 0) {
    error = errno;
  }
  if (error != 0) {
    return builder.Refuse(file, absl::StrCat("bind(", path, "): ", std::strerror(error)));
  }
  INCR_RETURN_IF_ERROR(
      Annotate(builder.socket_files().AddBound(directory, path), builder.Name(file)));
  const mode_t mode = file.socket().socket_mode() & 07777;
  if (file.socket().socket_mode() != 0 && ::fchmodat(directory, path.c_str(), mode, 0) != 0) {
    return builder.RefuseErrno(file, absl::StrCat("chmod(", path, ")"));
  }
  return absl::OkStatus();
}

}  // namespace

bool CheckedAddress::bound() const {
  if (storage.ss_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(&storage)->sin_port != 0;
  }
  if (storage.ss_family == AF_INET6) {
    return reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port != 0;
  }
  return length > kPathOffset;
}

std::string CheckedAddress::path() const {
  if (storage.ss_family != AF_UNIX || length <= kPathOffset) return "";
  const char* path = reinterpret_cast<const sockaddr_un*>(&storage)->sun_path;
  return std::string(path, ::strnlen(path, length - kPathOffset));
}

absl::StatusOr<CheckedAddress> CheckAddress(const FileBuilder& builder, const pb::OpenFile& file,
                                            const std::string& bytes) {
  CheckedAddress address;
  const int family = file.socket().family();
  const size_t longest = family == AF_UNIX ? sizeof(sockaddr_un) + 1 : sizeof address.storage;
  if (bytes.size() < MinimalLength(family) || bytes.size() > longest) {
    return builder.Malformed(file, absl::StrCat("has a socket address of ", bytes.size(),
                                                " bytes"));
  }
  // The kernel counts a terminating NUL beyond sun_path; bind takes no such length.
  const size_t length = std::min(bytes.size(), family == AF_UNIX ? sizeof(sockaddr_un)
                                                                 : sizeof address.storage);
  std::memcpy(&address.storage, bytes.data(), length);
  address.length = static_cast<socklen_t>(length);
  if (address.storage.ss_family != family) {
    return builder.Malformed(file, "has a socket address of another family");
  }
  return address;
}

absl::Status BindAddress(FileBuilder& builder, const pb::OpenFile& file, int fd) {
  if (file.socket().local_address().empty()) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(CheckedAddress address,
                        CheckAddress(builder, file, file.socket().local_address()));
  if (!address.bound()) return absl::OkStatus();
  if (!address.path().empty()) return BindUnixPath(builder, file, fd, address);
  if (::bind(fd, address.get(), address.length) == 0) return absl::OkStatus();
  if (errno == EADDRINUSE && file.socket().type() == SOCK_STREAM) {
    // What the process's last life left behind is nobody's; a live owner stays, and wins.
    const auto ended = DestroyTcpOrphans(address.get(), address.length);
    if (ended.ok() && *ended > 0 && ::bind(fd, address.get(), address.length) == 0) {
      return absl::OkStatus();
    }
    errno = EADDRINUSE;
  }
  return builder.RefuseErrno(
      file, absl::StrCat("bind(", DescribeAddress(file.socket().local_address()), ")"));
}

}  // namespace incr
