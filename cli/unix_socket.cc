#include "cli/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {

absl::StatusOr<SocketAddress> SocketAddress::In(const std::string& directory) {
  SocketAddress address;
  INCR_ASSIGN_OR_RETURN(address.directory_, OpenFile(directory, O_PATH | O_DIRECTORY));
  address.name_ = absl::StrCat(directory, "/", kSocketName);
  address.path_ = address.name_;
  if (address.path_.size() >= sizeof(sockaddr_un::sun_path)) {
    address.path_ = absl::StrCat("/proc/self/fd/", address.directory_.get(), "/", kSocketName);
  }
  return address;
}

absl::StatusOr<ScopedFd> ListenOn(const SocketAddress& address) {
  ScopedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return ErrnoStatus("socket(AF_UNIX)");
  if (::unlink(address.path().c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(absl::StrCat("unlink(", address.name(), ")"));
  }
  sockaddr_un sun{};
  sun.sun_family = AF_UNIX;
  std::memcpy(sun.sun_path, address.path().c_str(), address.path().size() + 1);
  // Nobody may connect between bind and chmod: the mode is right from the start.
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(fd.get(), reinterpret_cast<sockaddr*>(&sun), sizeof sun);
  const int error = errno;
  ::umask(mask);
  if (bound != 0) return ErrnoStatus(error, absl::StrCat("bind(", address.name(), ")"));
  if (::listen(fd.get(), SOMAXCONN) != 0) {
    return ErrnoStatus(absl::StrCat("listen(", address.name(), ")"));
  }
  return fd;
}

absl::StatusOr<Peer> PeerOf(int socket_fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoStatus("getsockopt(SO_PEERCRED)");
  }
  return Peer{credentials.pid, credentials.uid};
}

}  // namespace incr
