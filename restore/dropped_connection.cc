#include "restore/dropped_connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "process/socket_options.h"
#include "restore/refill_socket.h"

namespace incr {
namespace {

constexpr int kResetTimeoutMs = 2000;  // on loopback it has arrived when close() returns

// The listener's address as a socket of `family` names it.
sockaddr_storage AddressFor(int family, const sockaddr_in& listener, socklen_t* length) {
  sockaddr_storage address{};
  if (family == AF_INET) {
    std::memcpy(&address, &listener, sizeof listener);
    *length = sizeof(sockaddr_in);
    return address;
  }
  sockaddr_in6 mapped{};  // ::ffff:127.0.0.1, since ::1 may be switched off
  mapped.sin6_family = AF_INET6;
  mapped.sin6_port = listener.sin_port;
  mapped.sin6_addr.s6_addr[10] = mapped.sin6_addr.s6_addr[11] = 0xff;
  std::memcpy(&mapped.sin6_addr.s6_addr[12], &listener.sin_addr, 4);
  std::memcpy(&address, &mapped, sizeof mapped);
  *length = sizeof mapped;
  return address;
}

in_port_t PortOf(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6
             ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
             : reinterpret_cast<const sockaddr_in*>(&address)->sin_port;
}

// The accepted end of `client`. Any process can connect to our listener: others are let go.
ScopedFd AcceptFrom(int listener, int client) {
  sockaddr_storage ours{};
  socklen_t length = sizeof ours;
  if (::getsockname(client, reinterpret_cast<sockaddr*>(&ours), &length) != 0) return ScopedFd();
  for (;;) {
    sockaddr_in from{};
    length = sizeof from;
    ScopedFd accepted(
        ::accept4(listener, reinterpret_cast<sockaddr*>(&from), &length, SOCK_CLOEXEC));
    if (!accepted.ok() && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!accepted.ok() || from.sin_port == PortOf(ours)) return accepted;
  }
}

}  // namespace

absl::Status ConnectionDropper::Listen(const pb::OpenFile& file, Listener* listener) {
  ScopedFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any_port{};
  any_port.sin_family = AF_INET;
  any_port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  listener->length = sizeof listener->address;
  if (!fd.ok() ||
      ::bind(fd.get(), reinterpret_cast<sockaddr*>(&any_port), sizeof any_port) != 0 ||
      ::listen(fd.get(), 16) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&listener->address),
                    &listener->length) != 0) {
    return builder_.RefuseErrno(file, "listening on 127.0.0.1 to reset a connection");
  }
  listener->fd = std::move(fd);
  return absl::OkStatus();
}

absl::StatusOr<ScopedFd> ConnectionDropper::ResetTcp(const pb::OpenFile& file) {
  if (!listener_.fd.ok()) INCR_RETURN_IF_ERROR(Listen(file, &listener_));
  const int family = file.socket().family();
  ScopedFd client(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!client.ok()) return builder_.RefuseErrno(file, "socket");
  if (family == AF_INET6) {
    const int off = 0;
    ::setsockopt(client.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  }
  socklen_t length = 0;
  const sockaddr_storage address =
      AddressFor(family, *reinterpret_cast<const sockaddr_in*>(&listener_.address), &length);
  if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return builder_.RefuseErrno(file, "connect on loopback to reset a connection");
  }
  ScopedFd peer = AcceptFrom(listener_.fd.get(), client.get());
  if (!peer.ok()) return builder_.RefuseErrno(file, "accept on loopback to reset a connection");
  const linger reset_on_close = {1, 0};
  ::setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &reset_on_close, sizeof reset_on_close);
  peer.reset();
  pollfd arrived = {client.get(), 0, 0};
  if (::poll(&arrived, 1, kResetTimeoutMs) != 1 || (arrived.revents & POLLHUP) == 0) {
    return builder_.Refuse(file, "the reset of a loopback connection did not arrive");
  }
  return client;
}

absl::StatusOr<ScopedFd> ConnectionDropper::ClosedUnix(const pb::OpenFile& file) {
  const int type = file.socket().type();
  if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET) {
    return builder_.Malformed(file, absl::StrCat("is a Unix socket of type ", type));
  }
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) {
    return builder_.RefuseErrno(file, "socketpair");
  }
  ScopedFd ours(fds[0]), peer(fds[1]);
  INCR_RETURN_IF_ERROR(RefillSocket(builder_, file, peer.get()));
  return ours;
}

absl::Status ConnectionDropper::Open(const pb::OpenFile& file) {
  const int family = file.socket().family();
  ScopedFd fd;
  if (family == AF_UNIX) {
    INCR_ASSIGN_OR_RETURN(fd, ClosedUnix(file));
  } else if (family == AF_INET || family == AF_INET6) {
    INCR_ASSIGN_OR_RETURN(fd, ResetTcp(file));
  } else {
    return builder_.Malformed(file, absl::StrCat("is a connection of family ", family));
  }
  for (const pb::SocketOption& option : file.socket().options()) {
    // For getsockopt's eyes only: a dead connection has no use for them, so none is an error.
    (void)ApplySocketOption(fd.get(), {option.level(), option.name(), option.value()});
  }
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder_, file, fd.get()));
  return builder_.Add(file, std::move(fd));
}

}  // namespace incr
