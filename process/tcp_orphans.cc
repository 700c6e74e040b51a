#include "process/tcp_orphans.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/scoped_fd.h"
#include "base/status.h"

namespace incr {
namespace {

struct Request {
  nlmsghdr header;
  inet_diag_req_v2 query;
};

constexpr uint32_t StateBit(int state) { return 1u << state; }
// Not TCP_SYN_RECV, TCP_ESTABLISHED, TCP_CLOSE_WAIT: those may wait in an accept queue.
constexpr uint32_t kClosing = StateBit(TCP_FIN_WAIT1) | StateBit(TCP_FIN_WAIT2) |
                              StateBit(TCP_TIME_WAIT) | StateBit(TCP_LAST_ACK) |
                              StateBit(TCP_CLOSING);

Request NewRequest(int type, int flags, int family) {
  Request request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = static_cast<uint16_t>(type);
  request.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  request.query.sdiag_family = static_cast<uint8_t>(family);
  request.query.sdiag_protocol = IPPROTO_TCP;
  request.query.idiag_states = kClosing;
  return request;
}

// The last 4 bytes of an IPv4-mapped IPv6 address, or all of an address.
struct LocalAddress {
  in_port_t port = 0;  // network order
  bool any = false;
  bool is_v4 = false;
  uint8_t bytes[16] = {};

  bool Matches(const inet_diag_msg& socket) const {
    if (any) return true;
    const auto* found = reinterpret_cast<const uint8_t*>(socket.id.idiag_src);
    static constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (socket.idiag_family == AF_INET) return is_v4 && std::memcmp(found, bytes, 4) == 0;
    if (is_v4) {
      return std::memcmp(found, kMapped, 12) == 0 && std::memcmp(found + 12, bytes, 4) == 0;
    }
    return std::memcmp(found, bytes, 16) == 0;
  }
};

absl::StatusOr<LocalAddress> Parse(const sockaddr* local, socklen_t length) {
  LocalAddress address;
  if (local->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(local);
    address.port = in->sin_port;
    address.any = in->sin_addr.s_addr == INADDR_ANY;
    address.is_v4 = true;
    std::memcpy(address.bytes, &in->sin_addr, 4);
  } else if (local->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(local);
    address.port = in->sin6_port;
    address.any = IN6_IS_ADDR_UNSPECIFIED(&in->sin6_addr);
    address.is_v4 = IN6_IS_ADDR_V4MAPPED(&in->sin6_addr);
    std::memcpy(address.bytes, in->sin6_addr.s6_addr + (address.is_v4 ? 12 : 0),
                address.is_v4 ? 4 : 16);
  }
  if (address.port == 0) return absl::InvalidArgumentError("no TCP address with a port");
  return address;
}

// One datagram of a dump; false after the last.
absl::StatusOr<bool> ReadDump(int netlink, const LocalAddress& address,
                              std::vector<inet_diag_msg>* found) {
  alignas(nlmsghdr) char buffer[32 << 10];
  const ssize_t n = ::recv(netlink, buffer, sizeof buffer, 0);
  if (n < 0 && errno == EINTR) return true;
  if (n <= 0) return ErrnoStatus("recv(NETLINK_SOCK_DIAG)");
  int left = static_cast<int>(n);
  const auto* header = reinterpret_cast<const nlmsghdr*>(buffer);
  for (; NLMSG_OK(header, static_cast<unsigned>(left)); header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_type == NLMSG_DONE) return false;
    if (header->nlmsg_type == NLMSG_ERROR) {
      const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
      return ErrnoStatus(-error->error, "sock_diag(TCP)");
    }
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) continue;
    inet_diag_msg socket;
    std::memcpy(&socket, NLMSG_DATA(header), sizeof socket);
    if (socket.idiag_inode == 0 && (kClosing & StateBit(socket.idiag_state)) != 0 &&
        socket.id.idiag_sport == address.port && address.Matches(socket)) {
      found->push_back(socket);
    }
  }
  return true;
}

absl::Status ListOrphans(int netlink, const LocalAddress& address,
                         std::vector<inet_diag_msg>* found) {
  for (int family : {AF_INET, AF_INET6}) {
    Request request = NewRequest(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
    request.query.id.idiag_sport = address.port;
    if (::send(netlink, &request, sizeof request, 0) != sizeof request) {
      return ErrnoStatus("send(NETLINK_SOCK_DIAG)");
    }
    for (;;) {
      INCR_ASSIGN_OR_RETURN(bool more, ReadDump(netlink, address, found));
      if (!more) break;
    }
  }
  return absl::OkStatus();
}

// The kernel acknowledges with 0, or says why not (ENOENT: it has ended by itself).
absl::Status Destroy(int netlink, const inet_diag_msg& socket) {
  Request request = NewRequest(SOCK_DESTROY, NLM_F_ACK, socket.idiag_family);
  request.query.id = socket.id;
  if (::send(netlink, &request, sizeof request, 0) != sizeof request) {
    return ErrnoStatus("send(SOCK_DESTROY)");
  }
  alignas(nlmsghdr) char buffer[1024];
  const ssize_t n = ::recv(netlink, buffer, sizeof buffer, 0);
  const auto* header = reinterpret_cast<const nlmsghdr*>(buffer);
  if (n < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(nlmsgerr))) ||
      header->nlmsg_type != NLMSG_ERROR) {
    return absl::InternalError("SOCK_DESTROY: no answer");
  }
  const int error = -static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error;
  if (error == 0 || error == ENOENT) return absl::OkStatus();
  return ErrnoStatus(error, "SOCK_DESTROY");
}

}  // namespace

absl::StatusOr<int> DestroyTcpOrphans(const sockaddr* local, socklen_t length) {
  INCR_ASSIGN_OR_RETURN(LocalAddress address, Parse(local, length));
  ScopedFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink.ok()) return ErrnoStatus("socket(NETLINK_SOCK_DIAG)");
  const timeval patience = {2, 0};  // a kernel without TCP diag modules may not answer
  ::setsockopt(netlink.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  std::vector<inet_diag_msg> orphans;
  INCR_RETURN_IF_ERROR(ListOrphans(netlink.get(), address, &orphans));
  for (const inet_diag_msg& orphan : orphans) {
    INCR_RETURN_IF_ERROR(Destroy(netlink.get(), orphan));
  }
  return static_cast<int>(orphans.size());
}

}  // namespace incr
