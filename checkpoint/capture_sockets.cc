#include "checkpoint/capture_sockets.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "checkpoint/capture_path_files.h"
#include "checkpoint/text.h"
#include "process/socket_options.h"

namespace incr {

struct SocketCapture::Opened {
  const OpenDescription& description;
  ScopedFd fd;  // ours, of the same open file description: ask, never change
  int domain = 0, type = 0, protocol = 0;
  bool accepting = false;
};

namespace {

constexpr int kMptcp = 262;             // IPPROTO_MPTCP
constexpr uint32_t kUnknownBacklog = 511;
constexpr int kMaxUnread = 64 << 20;    // bytes; far above any socket buffer
constexpr uint32_t kTcpClose = 7;       // TCP_CLOSE
constexpr int kNamedLosses = 8;         // connections with a warning each

absl::StatusOr<std::string> LocalAddress(const OpenDescription& description, int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(absl::StrCat("getsockname(", Describe(description), ")"));
  }
  return std::string(reinterpret_cast<char*>(&address),
                     std::min<size_t>(length, sizeof address));
}

// "": not connected.
std::string RemoteAddress(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "";
  return std::string(reinterpret_cast<char*>(&address),
                     std::min<size_t>(length, sizeof address));
}

const char* TcpStateName(uint32_t state) {
  static constexpr const char* kNames[] = {
      "unknown",  "established", "syn-sent", "syn-received", "fin-wait-1", "fin-wait-2",
      "time-wait", "closed",     "close-wait", "last-ack",   "listening",  "closing"};
  return state < std::size(kNames) ? kNames[state] : "unknown";
}

struct TcpFacts {
  uint32_t state = 0;
  uint32_t backlog = kUnknownBacklog, pending = 0;  // listening
  bool ever_used = true;                            // a segment was sent or received
};

TcpFacts ReadTcpFacts(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  TcpFacts facts;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return facts;
  facts.state = info.tcpi_state;
  facts.backlog = info.tcpi_sacked;   // sk_max_ack_backlog while listening
  facts.pending = info.tcpi_unacked;  // sk_ack_backlog while listening
  const bool has_counts = length >= offsetof(tcp_info, tcpi_segs_in) + sizeof info.tcpi_segs_in;
  facts.ever_used = !has_counts || info.tcpi_segs_out != 0 || info.tcpi_segs_in != 0;
  return facts;
}

// sun_path of a pathname socket, "" for abstract and unnamed ones.
std::string UnixPath(absl::string_view address) {
  if (address.size() <= offsetof(sockaddr_un, sun_path)) return "";
  absl::string_view path = address.substr(offsetof(sockaddr_un, sun_path));
  return std::string(path.substr(0, path.find('\0')));
}

bool IsUnnamed(absl::string_view unix_address) {
  return unix_address.size() <= offsetof(sockaddr_un, sun_path);
}

}  // namespace

void SocketCapture::Warn(const Opened& socket, absl::string_view text) {
  image_->add_warnings(absl::StrCat(Describe(socket.description), ": ", text));
}

void SocketCapture::WarnOfLost(const Opened& socket, absl::string_view text) {
  if (++lost_ <= kNamedLosses) return Warn(socket, text);
  lost_unnamed_.push_back(socket.description.fd());
}

void SocketCapture::Finish() {
  if (lost_unnamed_.empty()) return;
  std::string ranges;
  for (size_t i = 0; i < lost_unnamed_.size();) {
    size_t end = i + 1;
    while (end < lost_unnamed_.size() && lost_unnamed_[end] == lost_unnamed_[end - 1] + 1) ++end;
    absl::StrAppend(&ranges, i == 0 ? "" : ", ", lost_unnamed_[i]);
    if (end > i + 1) absl::StrAppend(&ranges, "-", lost_unnamed_[end - 1]);
    i = end;
  }
  image_->add_warnings(absl::StrCat(lost_unnamed_.size(),
                                    " more connections will be restored as reset or closed by "
                                    "the peer: fd ", ranges));
}

bool SocketCapture::BecomesStdioSocket(const Opened& socket, pb::OpenFile* file) {
  const auto same = [&](const FdEntry& entry) {
    return S_ISSOCK(entry.stat.st_mode) && entry.stat.st_ino == socket.description.inode();
  };
  if (!BecomesStdio(capture_, socket.description, same, file)) return false;
  file->clear_socket();
  return true;
}

absl::Status SocketCapture::CaptureOptions(const Opened& socket, pb::Socket* saved) {
  for (SocketOptionValue& value :
       ReadSocketOptions(socket.fd.get(), socket.domain, socket.type, socket.protocol)) {
    pb::SocketOption* option = saved->add_options();
    option->set_level(value.level);
    option->set_name(value.name);
    option->set_value(std::move(value.value));
  }
  socklen_t instructions = 0;
  if (::getsockopt(socket.fd.get(), SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) == 0 &&
      instructions != 0) {
    return Unsupported(socket.description, "a socket with a packet filter");
  }
  if (::fcntl(socket.fd.get(), F_GETOWN) != 0) {
    Warn(socket, "its owner for SIGURG (F_SETOWN) is not restored");
  }
  return absl::OkStatus();
}

absl::Status SocketCapture::CaptureDatagram(const Opened& socket, pb::OpenFile* file) {
  pb::Socket* saved = file->mutable_socket();
  file->set_kind(pb::OpenFile::DATAGRAM_SOCKET);
  INCR_ASSIGN_OR_RETURN(*saved->mutable_local_address(),
                        LocalAddress(socket.description, socket.fd.get()));
  saved->set_remote_address(RemoteAddress(socket.fd.get()));
  int unread = 0;
  if (::ioctl(socket.fd.get(), FIONREAD, &unread) == 0 && unread > 0) {
    Warn(socket, "datagrams received but not yet read are not saved");
  }
  return CaptureOptions(socket, saved);
}

absl::Status SocketCapture::CaptureTcp(const Opened& socket, pb::OpenFile* file) {
  pb::Socket* saved = file->mutable_socket();
  const TcpFacts facts = ReadTcpFacts(socket.fd.get());
  INCR_ASSIGN_OR_RETURN(*saved->mutable_local_address(),
                        LocalAddress(socket.description, socket.fd.get()));
  saved->set_remote_address(RemoteAddress(socket.fd.get()));
  if (socket.accepting) {
    file->set_kind(pb::OpenFile::LISTENING_SOCKET);
    saved->set_backlog(facts.backlog);
    if (facts.pending > 0) {
      Warn(socket, absl::StrCat(facts.pending, " connections to ",
                                DescribeAddress(saved->local_address()),
                                " wait to be accepted; they are lost"));
    }
    return CaptureOptions(socket, saved);
  }
  if (facts.state == kTcpClose && !facts.ever_used && saved->remote_address().empty()) {
    file->set_kind(pb::OpenFile::UNBOUND_SOCKET);
    return CaptureOptions(socket, saved);
  }
  if (BecomesStdioSocket(socket, file)) return absl::OkStatus();
  file->set_kind(pb::OpenFile::DROPPED_CONNECTION);
  if (facts.state != kTcpClose) {
    WarnOfLost(socket, absl::StrCat(TcpStateName(facts.state), " TCP connection of ",
                              DescribeAddress(saved->local_address()), " with ",
                              DescribeAddress(saved->remote_address()),
                              " will be restored as reset by the peer"));
  }
  return absl::OkStatus();  // Options are of no use to it, and cost 10 us for each client.
}

absl::Status SocketCapture::CaptureInet(const Opened& socket, pb::OpenFile* file) {
  if (!capture_.fs.same_network) {
    return Unsupported(socket.description, "a socket in another network namespace");
  }
  const bool tcp = socket.type == SOCK_STREAM &&
                   (socket.protocol == IPPROTO_TCP || socket.protocol == kMptcp);
  if (tcp) return CaptureTcp(socket, file);
  if (socket.type == SOCK_DGRAM && socket.protocol == IPPROTO_UDP) {
    return CaptureDatagram(socket, file);
  }
  return Unsupported(socket.description, absl::StrCat("socket of type ", socket.type,
                                                      ", protocol ", socket.protocol));
}

absl::StatusOr<UnixSocketFacts> SocketCapture::QueryUnix(uint64_t inode) {
  if (!unix_diag_.has_value()) {
    INCR_ASSIGN_OR_RETURN(unix_diag_, UnixDiag::Open());
  }
  return unix_diag_->Query(inode);
}

// The socket's file must still be where its address says, or nobody can reach it.
absl::Status SocketCapture::CaptureUnixFile(const Opened& socket, const UnixSocketFacts& facts,
                                            pb::Socket* saved) {
  std::string path = UnixPath(saved->local_address());
  if (path.empty()) return absl::OkStatus();
  if (path[0] != '/') path = absl::StrCat(capture_.fs.cwd, "/", path);
  struct stat file{};
  if (::lstat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode) || !facts.has_file ||
      static_cast<uint32_t>(file.st_ino) != static_cast<uint32_t>(facts.file_inode)) {
    return Unsupported(socket.description,
                       absl::StrCat("a Unix socket whose file ", PrintableUtf8(path), " is gone or another's"));
  }
  saved->set_socket_mode(file.st_mode);
  return absl::OkStatus();
}

absl::Status SocketCapture::CaptureUnixListener(const Opened& socket,
                                                const UnixSocketFacts& facts,
                                                pb::OpenFile* file) {
  pb::Socket* saved = file->mutable_socket();
  file->set_kind(pb::OpenFile::LISTENING_SOCKET);
  saved->set_backlog(facts.backlog);
  INCR_RETURN_IF_ERROR(CaptureUnixFile(socket, facts, saved));
  if (facts.pending > 0) {
    Warn(socket, absl::StrCat(facts.pending, " connections to ",
                              DescribeAddress(saved->local_address()),
                              " wait to be accepted; they are lost"));
  }
  return CaptureOptions(socket, saved);
}

// MSG_PEEK of everything that is queued; whatever keeps it from being one plain run of
// bytes (descriptors, credentials, several messages) ends the peek early and shows.
absl::Status SocketCapture::CaptureUnread(const Opened& socket, pb::Socket* saved) {
  const OpenDescription& description = socket.description;
  int descriptors_in_flight = 0;
  if (absl::SimpleAtoi(FdinfoField(description.first().fdinfo, "scm_fds"),
                       &descriptors_in_flight) &&
      descriptors_in_flight > 0) {
    return Unsupported(description, "file descriptors are in flight to this socket");
  }
  int queued = 0;
  if (::ioctl(socket.fd.get(), FIONREAD, &queued) != 0) {
    return ErrnoStatus(absl::StrCat("FIONREAD(", Describe(description), ")"));
  }
  if (queued <= 0) return absl::OkStatus();
  // A datagram queue only tells the size of its first message, never how many follow.
  if (socket.type == SOCK_DGRAM || queued > kMaxUnread) {
    return Unsupported(description, "unread messages in a Unix datagram socket");
  }
  int peek_offset = -1;
  socklen_t length = sizeof peek_offset;
  if (::getsockopt(socket.fd.get(), SOL_SOCKET, SO_PEEK_OFF, &peek_offset, &length) == 0 &&
      peek_offset >= 0) {
    return Unsupported(description, "unread data in a Unix socket with SO_PEEK_OFF");
  }
  std::string& data = *saved->mutable_unread();
  data.resize(queued);
  iovec vector = {data.data(), data.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  const ssize_t n = ::recvmsg(socket.fd.get(), &message, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0) return ErrnoStatus(absl::StrCat("recvmsg(MSG_PEEK, ", Describe(description), ")"));
  if (n != queued || (message.msg_flags & MSG_CTRUNC) != 0) {
    return Unsupported(description,
                       "unread data in a Unix socket is more than one plain run of bytes");
  }
  return absl::OkStatus();
}

absl::Status SocketCapture::CaptureUnixPair(const Opened& socket, const UnixSocketFacts& facts,
                                            pb::OpenFile* file) {
  pb::Socket* saved = file->mutable_socket();
  file->set_kind(pb::OpenFile::SOCKET_PAIR);
  saved->set_pair_id(std::min<uint64_t>(socket.description.inode(), facts.peer_inode));
  saved->set_read_shutdown((facts.shutdown & 1) != 0);
  saved->set_write_shutdown((facts.shutdown & 2) != 0);
  INCR_RETURN_IF_ERROR(CaptureUnread(socket, saved));
  return CaptureOptions(socket, saved);
}

// The peer is outside, or closed already.
absl::Status SocketCapture::CaptureUnixConnected(const Opened& socket,
                                                 const UnixSocketFacts& facts,
                                                 pb::OpenFile* file) {
  if (BecomesStdioSocket(socket, file)) return absl::OkStatus();
  pb::Socket* saved = file->mutable_socket();
  file->set_kind(pb::OpenFile::DROPPED_CONNECTION);
  INCR_RETURN_IF_ERROR(CaptureUnread(socket, saved));
  if (facts.peer_inode != 0) {
    WarnOfLost(socket, absl::StrCat("Unix connection of ", DescribeAddress(saved->local_address()),
                              " with ", DescribeAddress(saved->remote_address()),
                              " in another process will be restored as closed by the peer"));
  }
  return CaptureOptions(socket, saved);
}

absl::Status SocketCapture::CaptureUnix(const Opened& socket, pb::OpenFile* file) {
  pb::Socket* saved = file->mutable_socket();
  INCR_ASSIGN_OR_RETURN(*saved->mutable_local_address(),
                        LocalAddress(socket.description, socket.fd.get()));
  saved->set_remote_address(RemoteAddress(socket.fd.get()));
  if (!capture_.fs.same_network) {
    return Unsupported(socket.description, "a socket in another network namespace");
  }
  INCR_ASSIGN_OR_RETURN(UnixSocketFacts facts, QueryUnix(socket.description.inode()));
  if (socket.accepting) return CaptureUnixListener(socket, facts, file);

  bool peer_is_ours = false;  // and knows us as its peer
  if (facts.peer_inode != 0) {
    for (const OpenDescription& other : capture_.all) {
      if (S_ISSOCK(other.first().stat.st_mode) && other.inode() == facts.peer_inode) {
        INCR_ASSIGN_OR_RETURN(UnixSocketFacts peer, QueryUnix(facts.peer_inode));
        peer_is_ours = peer.peer_inode == socket.description.inode();
      }
    }
  }
  if (peer_is_ours) return CaptureUnixPair(socket, facts, file);
  const bool connected = !saved->remote_address().empty();
  if (connected && (socket.type != SOCK_DGRAM || IsUnnamed(saved->remote_address()))) {
    return CaptureUnixConnected(socket, facts, file);
  }
  INCR_RETURN_IF_ERROR(CaptureUnixFile(socket, facts, saved));
  if (socket.type == SOCK_DGRAM) return CaptureDatagram(socket, file);
  file->set_kind(pb::OpenFile::UNBOUND_SOCKET);
  return CaptureOptions(socket, saved);
}

absl::Status SocketCapture::Capture(const OpenDescription& description, pb::OpenFile* file) {
  Opened socket{description};
  INCR_ASSIGN_OR_RETURN(socket.fd, capture_.target.DuplicateFd(description.fd()));
  const std::string what = Describe(description);
  const int fd = socket.fd.get();
  INCR_ASSIGN_OR_RETURN(socket.domain, GetSocketInt(fd, SOL_SOCKET, SO_DOMAIN, what));
  INCR_ASSIGN_OR_RETURN(socket.type, GetSocketInt(fd, SOL_SOCKET, SO_TYPE, what));
  INCR_ASSIGN_OR_RETURN(socket.protocol, GetSocketInt(fd, SOL_SOCKET, SO_PROTOCOL, what));
  INCR_ASSIGN_OR_RETURN(int accepting, GetSocketInt(fd, SOL_SOCKET, SO_ACCEPTCONN, what));
  socket.accepting = accepting != 0;
  pb::Socket* saved = file->mutable_socket();
  saved->set_family(socket.domain);
  saved->set_type(socket.type);
  saved->set_protocol(socket.protocol);
  switch (socket.domain) {
    case AF_INET:
    case AF_INET6:
      return CaptureInet(socket, file);
    case AF_UNIX:
      return CaptureUnix(socket, file);
    default:
      return Unsupported(description, absl::StrCat("socket of address family ", socket.domain,
                                                   socket.domain == AF_NETLINK ? " (netlink)"
                                                   : socket.domain == AF_PACKET ? " (packet)"
                                                   : socket.domain == AF_VSOCK  ? " (vsock)"
                                                                                : ""));
  }
}

}  // namespace incr
