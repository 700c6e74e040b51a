#include "process/socket_options.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr int kBufLock = 72;       // SO_BUF_LOCK (5.13)
constexpr int kPassPidfd = 76;     // SO_PASSPIDFD (6.5)
constexpr int kUserLockedSend = 1, kUserLockedReceive = 2;

enum Family : unsigned { kAny = 1, kInet = 2, kInet6 = 4, kTcp = 8, kUdp = 16, kUnix = 32 };

struct Option {
  int level;
  int name;
  unsigned applies;  // any of Family
  const char* text;
};

#define OPTION(level, name, applies) {level, name, applies, #name}

// In the order in which they are set: all of them before bind().
constexpr Option kOptions[] = {
    OPTION(SOL_SOCKET, SO_REUSEADDR, kInet | kInet6),
    OPTION(SOL_SOCKET, SO_REUSEPORT, kInet | kInet6),
    OPTION(SOL_SOCKET, SO_BINDTODEVICE, kInet | kInet6),
    OPTION(SOL_SOCKET, SO_KEEPALIVE, kAny),
    OPTION(SOL_SOCKET, SO_BROADCAST, kAny),
    OPTION(SOL_SOCKET, SO_OOBINLINE, kAny),
    OPTION(SOL_SOCKET, SO_DONTROUTE, kInet | kInet6),
    OPTION(SOL_SOCKET, SO_LINGER, kAny),
    OPTION(SOL_SOCKET, SO_MARK, kInet | kInet6),
    OPTION(SOL_SOCKET, SO_RCVBUF, kAny),
    OPTION(SOL_SOCKET, SO_SNDBUF, kAny),
    OPTION(SOL_SOCKET, SO_RCVLOWAT, kInet | kInet6),
    OPTION(SOL_SOCKET, SO_RCVTIMEO, kAny),
    OPTION(SOL_SOCKET, SO_SNDTIMEO, kAny),
    OPTION(SOL_SOCKET, SO_TIMESTAMP, kAny),
    OPTION(SOL_SOCKET, SO_TIMESTAMPNS, kAny),
    OPTION(SOL_SOCKET, SO_PASSCRED, kUnix),
    OPTION(SOL_SOCKET, kPassPidfd, kUnix),
    OPTION(IPPROTO_IPV6, IPV6_V6ONLY, kInet6),
    OPTION(IPPROTO_IP, IP_FREEBIND, kInet),
    OPTION(IPPROTO_IP, IP_TRANSPARENT, kInet),
    OPTION(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, kInet),
    OPTION(IPPROTO_IP, IP_TOS, kInet),
    OPTION(IPPROTO_IP, IP_TTL, kInet),
    OPTION(IPPROTO_IP, IP_MTU_DISCOVER, kInet),
    OPTION(IPPROTO_IP, IP_RECVERR, kInet),
    OPTION(IPPROTO_IP, IP_PKTINFO, kInet),
    OPTION(IPPROTO_IP, IP_RECVTOS, kInet),
    OPTION(IPPROTO_IP, IP_RECVTTL, kInet),
    OPTION(IPPROTO_IP, IP_RECVORIGDSTADDR, kInet),
    OPTION(IPPROTO_IP, IP_MULTICAST_TTL, kInet),
    OPTION(IPPROTO_IP, IP_MULTICAST_LOOP, kInet),
    OPTION(IPPROTO_IPV6, IPV6_FREEBIND, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_TRANSPARENT, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_TCLASS, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_UNICAST_HOPS, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_MTU_DISCOVER, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_RECVERR, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_RECVPKTINFO, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_RECVTCLASS, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, kInet6),
    OPTION(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, kInet6),
    OPTION(SOL_SOCKET, SO_PRIORITY, kInet | kInet6),  // after IP_TOS, which sets it too
    OPTION(IPPROTO_TCP, TCP_NODELAY, kTcp),
    OPTION(IPPROTO_TCP, TCP_KEEPIDLE, kTcp),
    OPTION(IPPROTO_TCP, TCP_KEEPINTVL, kTcp),
    OPTION(IPPROTO_TCP, TCP_KEEPCNT, kTcp),
    OPTION(IPPROTO_TCP, TCP_SYNCNT, kTcp),
    OPTION(IPPROTO_TCP, TCP_LINGER2, kTcp),
    OPTION(IPPROTO_TCP, TCP_DEFER_ACCEPT, kTcp),
    OPTION(IPPROTO_TCP, TCP_USER_TIMEOUT, kTcp),
    OPTION(IPPROTO_TCP, TCP_CONGESTION, kTcp),
    OPTION(IPPROTO_TCP, TCP_NOTSENT_LOWAT, kTcp),
    OPTION(IPPROTO_TCP, TCP_FASTOPEN, kTcp),
    OPTION(IPPROTO_UDP, UDP_SEGMENT, kUdp),
    OPTION(IPPROTO_UDP, UDP_GRO, kUdp),
};
#undef OPTION

constexpr size_t kMaxOptionBytes = 64;

unsigned FamiliesOf(int domain, int type, int protocol) {
  unsigned families = kAny;
  if (domain == AF_INET) families |= kInet;
  if (domain == AF_INET6) families |= kInet | kInet6;  // IP options act on mapped addresses
  if (domain == AF_UNIX) families |= kUnix;
  if (domain == AF_UNIX) return families;
  if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == 262)) families |= kTcp;
  if (type == SOCK_DGRAM && (protocol == IPPROTO_UDP)) families |= kUdp;
  return families;
}

bool ReadRaw(int fd, int level, int name, std::string* value) {
  char buffer[kMaxOptionBytes] = {};
  socklen_t length = sizeof buffer;
  if (::getsockopt(fd, level, name, buffer, &length) != 0) return false;
  value->assign(buffer, std::min<size_t>(length, sizeof buffer));
  return true;
}

bool IsBufferSize(int level, int name) {
  return level == SOL_SOCKET && (name == SO_RCVBUF || name == SO_SNDBUF);
}

// The kernel doubles what is set and shows the doubled value.
absl::Status SetBufferSize(int fd, const Option& known, const SocketOptionValue& option) {
  int doubled;
  if (option.value.size() != sizeof doubled) {
    return absl::InvalidArgumentError(absl::StrCat(known.text, " has ", option.value.size(),
                                                   " bytes"));
  }
  std::memcpy(&doubled, option.value.data(), sizeof doubled);
  const int size = doubled / 2;
  const int force = known.name == SO_RCVBUF ? SO_RCVBUFFORCE : SO_SNDBUFFORCE;
  if (::setsockopt(fd, SOL_SOCKET, force, &size, sizeof size) == 0) return absl::OkStatus();
  if (::setsockopt(fd, SOL_SOCKET, known.name, &size, sizeof size) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("setsockopt(", known.text, ")"));
}

std::string DescribeUnix(absl::string_view address) {
  absl::string_view path = address.substr(std::min(address.size(), offsetof(sockaddr_un, sun_path)));
  if (path.empty()) return "(unnamed)";
  if (path[0] == '\0') return absl::StrCat("@", absl::CHexEscape(path.substr(1)));
  return absl::CHexEscape(path.substr(0, path.find('\0')));
}

}  // namespace

std::vector<SocketOptionValue> ReadSocketOptions(int fd, int domain, int type, int protocol) {
  const unsigned families = FamiliesOf(domain, type, protocol);
  int locked = 0;
  socklen_t length = sizeof locked;
  if (::getsockopt(fd, SOL_SOCKET, kBufLock, &locked, &length) != 0) locked = 0;
  std::vector<SocketOptionValue> values;
  for (const Option& option : kOptions) {
    if ((option.applies & families) == 0) continue;
    if (IsBufferSize(option.level, option.name)) {
      const int bit = option.name == SO_RCVBUF ? kUserLockedReceive : kUserLockedSend;
      if ((locked & bit) == 0) continue;
    }
    SocketOptionValue value{option.level, option.name, {}};
    if (ReadRaw(fd, option.level, option.name, &value.value)) values.push_back(std::move(value));
  }
  return values;
}

absl::Status ApplySocketOption(int fd, const SocketOptionValue& option) {
  const Option* known = nullptr;
  for (const Option& candidate : kOptions) {
    if (candidate.level == option.level && candidate.name == option.name) known = &candidate;
  }
  if (known == nullptr || option.value.size() > kMaxOptionBytes) {
    return absl::InvalidArgumentError(absl::StrCat("socket option ", option.level, "/",
                                                   option.name, " is not one that is restored"));
  }
  std::string current;
  if (ReadRaw(fd, option.level, option.name, &current) && current == option.value) {
    return absl::OkStatus();
  }
  if (IsBufferSize(option.level, option.name)) return SetBufferSize(fd, *known, option);
  if (::setsockopt(fd, option.level, option.name, option.value.data(), option.value.size()) != 0) {
    return ErrnoStatus(absl::StrCat("setsockopt(", known->text, ")"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> GetSocketInt(int fd, int level, int name, absl::string_view what) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, level, name, &value, &length) != 0) {
    return ErrnoStatus(absl::StrCat("getsockopt(", what, ")"));
  }
  return value;
}

std::string DescribeAddress(absl::string_view address) {
  sa_family_t family = AF_UNSPEC;
  if (address.size() >= sizeof family) std::memcpy(&family, address.data(), sizeof family);
  char text[INET6_ADDRSTRLEN] = {};
  if (family == AF_INET && address.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in;
    std::memcpy(&in, address.data(), sizeof in);
    ::inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
    return absl::StrCat(text, ":", ntohs(in.sin_port));
  }
  if (family == AF_INET6 && address.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in;
    std::memcpy(&in, address.data(), sizeof in);
    ::inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
    return absl::StrCat("[", text, "]:", ntohs(in.sin6_port));
  }
  if (family == AF_UNIX) return DescribeUnix(address);
  return address.empty() ? "(unnamed)" : absl::StrCat("(address family ", family, ")");
}

}  // namespace incr
