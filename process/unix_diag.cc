#include "process/unix_diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

struct Request {
  nlmsghdr header;
  unix_diag_req query;
};

absl::StatusOr<UnixSocketFacts> Parse(const nlmsghdr* header) {
  UnixSocketFacts facts;
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  int left = static_cast<int>(header->nlmsg_len) - static_cast<int>(NLMSG_LENGTH(sizeof *message));
  const auto* attribute = reinterpret_cast<const rtattr*>(message + 1);
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    const void* data = RTA_DATA(attribute);
    const size_t size = RTA_PAYLOAD(attribute);
    if (attribute->rta_type == UNIX_DIAG_PEER && size >= 4) {
      uint32_t peer;
      std::memcpy(&peer, data, sizeof peer);
      facts.peer_inode = peer;
    } else if (attribute->rta_type == UNIX_DIAG_RQLEN && size >= sizeof(unix_diag_rqlen)) {
      unix_diag_rqlen queue;
      std::memcpy(&queue, data, sizeof queue);
      facts.pending = queue.udiag_rqueue;
      facts.backlog = queue.udiag_wqueue;
    } else if (attribute->rta_type == UNIX_DIAG_VFS && size >= sizeof(unix_diag_vfs)) {
      unix_diag_vfs file;
      std::memcpy(&file, data, sizeof file);
      facts.has_file = true;
      facts.file_inode = file.udiag_vfs_ino;
    } else if (attribute->rta_type == UNIX_DIAG_SHUTDOWN && size >= 1) {
      facts.shutdown = *static_cast<const uint8_t*>(data);
    }
  }
  return facts;
}

}  // namespace

absl::StatusOr<UnixDiag> UnixDiag::Open() {
  ScopedFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!socket.ok()) return ErrnoStatus("socket(NETLINK_SOCK_DIAG)");
  return UnixDiag(std::move(socket));
}

absl::StatusOr<UnixSocketFacts> UnixDiag::Query(uint64_t inode) const {
  const std::string what = absl::StrCat("sock_diag(unix socket ", inode, ")");
  Request request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.query.sdiag_family = AF_UNIX;
  request.query.udiag_states = ~0u;
  request.query.udiag_ino = static_cast<uint32_t>(inode);
  request.query.udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS;
  request.query.udiag_cookie[0] = request.query.udiag_cookie[1] = ~0u;  // INET_DIAG_NOCOOKIE
  if (::send(socket_.get(), &request, sizeof request, 0) != sizeof request) {
    return ErrnoStatus(what);
  }
  // Netlink answers within send(): nothing to wait for.
  alignas(nlmsghdr) char buffer[8192];
  const ssize_t n = ::recv(socket_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (n < 0) return ErrnoStatus(what);
  const auto* header = reinterpret_cast<const nlmsghdr*>(buffer);
  if (!NLMSG_OK(header, static_cast<unsigned>(n))) {
    return absl::InternalError(absl::StrCat(what, ": short answer"));
  }
  if (header->nlmsg_type == NLMSG_ERROR) {
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr))) {
      return absl::InternalError(absl::StrCat(what, ": short answer"));
    }
    const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
    return ErrnoStatus(-error->error, what);
  }
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg))) {
    return absl::InternalError(absl::StrCat(what, ": short answer"));
  }
  return Parse(header);
}

}  // namespace incr
