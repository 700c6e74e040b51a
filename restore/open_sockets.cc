#include "restore/open_sockets.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "process/socket_options.h"
#include "restore/refill_socket.h"
#include "restore/socket_address.h"

namespace incr {
namespace {

absl::StatusOr<ScopedFd> NewSocket(const FileBuilder& builder, const pb::OpenFile& file) {
  const pb::Socket& saved = file.socket();
  const bool known_family =
      saved.family() == AF_INET || saved.family() == AF_INET6 || saved.family() == AF_UNIX;
  const bool known_type = saved.type() == SOCK_STREAM || saved.type() == SOCK_DGRAM ||
                          (saved.type() == SOCK_SEQPACKET && saved.family() == AF_UNIX);
  if (!known_family || !known_type) {
    return builder.Malformed(file, absl::StrCat("is a socket of family ", saved.family(),
                                                " and type ", saved.type()));
  }
  ScopedFd fd(::socket(saved.family(), saved.type() | SOCK_CLOEXEC, saved.protocol()));
  if (!fd.ok()) return builder.RefuseErrno(file, "socket");
  return fd;
}

bool IsReuseAddress(const pb::SocketOption& option) {
  return option.level() == SOL_SOCKET && option.name() == SO_REUSEADDR;
}

absl::Status ApplyOption(const FileBuilder& builder, const pb::OpenFile& file, int fd,
                         const pb::SocketOption& option) {
  return Annotate(ApplySocketOption(fd, {option.level(), option.name(), option.value()}),
                  builder.Name(file));
}

absl::Status ApplyOptions(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  for (const pb::SocketOption& option : file.socket().options()) {
    INCR_RETURN_IF_ERROR(ApplyOption(builder, file, fd, option));
  }
  return absl::OkStatus();
}

// Binds a TCP socket although connections of its last life may rest in TIME_WAIT; a
// port that somebody listens on is refused all the same.
absl::Status BindStream(FileBuilder& builder, const pb::OpenFile& file, int fd) {
  INCR_RETURN_IF_ERROR(ApplyOptions(builder, file, fd));
  if (file.socket().family() != AF_UNIX) {
    const int on = 1;
    if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
      return builder.RefuseErrno(file, "setsockopt(SO_REUSEADDR)");
    }
  }
  return BindAddress(builder, file, fd);
}

absl::Status RestoreReuseAddress(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  for (const pb::SocketOption& option : file.socket().options()) {
    if (IsReuseAddress(option)) INCR_RETURN_IF_ERROR(ApplyOption(builder, file, fd, option));
  }
  return absl::OkStatus();
}

absl::Status ShutDown(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  const pb::Socket& saved = file.socket();
  if (!saved.read_shutdown() && !saved.write_shutdown()) return absl::OkStatus();
  const int how = saved.read_shutdown() ? (saved.write_shutdown() ? SHUT_RDWR : SHUT_RD) : SHUT_WR;
  if (::shutdown(fd, how) != 0) return builder.RefuseErrno(file, "shutdown");
  return absl::OkStatus();
}

}  // namespace

absl::Status OpenListeningSocket(FileBuilder& builder, const pb::OpenFile& file) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, NewSocket(builder, file));
  INCR_RETURN_IF_ERROR(BindStream(builder, file, fd.get()));
  if (::listen(fd.get(), static_cast<int>(file.socket().backlog() & 0x7fffffff)) != 0) {
    return builder.RefuseErrno(
        file, absl::StrCat("listen(", DescribeAddress(file.socket().local_address()), ")"));
  }
  INCR_RETURN_IF_ERROR(RestoreReuseAddress(builder, file, fd.get()));
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenUnboundSocket(FileBuilder& builder, const pb::OpenFile& file) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, NewSocket(builder, file));
  INCR_RETURN_IF_ERROR(BindStream(builder, file, fd.get()));
  INCR_RETURN_IF_ERROR(RestoreReuseAddress(builder, file, fd.get()));
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenDatagramSocket(FileBuilder& builder, const pb::OpenFile& file) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, NewSocket(builder, file));
  INCR_RETURN_IF_ERROR(ApplyOptions(builder, file, fd.get()));
  INCR_RETURN_IF_ERROR(BindAddress(builder, file, fd.get()));
  if (!file.socket().remote_address().empty()) {
    INCR_ASSIGN_OR_RETURN(CheckedAddress remote,
                          CheckAddress(builder, file, file.socket().remote_address()));
    const bool gone_is_fine = file.socket().family() == AF_UNIX;
    if (::connect(fd.get(), remote.get(), remote.length) != 0 && !gone_is_fine) {
      return builder.RefuseErrno(
          file, absl::StrCat("connect(", DescribeAddress(file.socket().remote_address()), ")"));
    }
  }
  INCR_RETURN_IF_ERROR(SetStatusFlags(builder, file, fd.get()));
  return builder.Add(file, std::move(fd));
}

absl::Status OpenSocketPair(FileBuilder& builder, const std::vector<const pb::OpenFile*>& ends) {
  const pb::OpenFile& first = *ends.front();
  const int type = first.socket().type();
  if (ends.size() > 2 || (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET)) {
    return builder.Malformed(first, "is no socket pair");
  }
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) {
    return builder.RefuseErrno(first, "socketpair");
  }
  ScopedFd pair[2] = {ScopedFd(fds[0]), ScopedFd(fds[1])};
  for (size_t i = 0; i < ends.size(); ++i) {
    INCR_RETURN_IF_ERROR(RefillSocket(builder, *ends[i], pair[1 - i].get()));
  }
  for (size_t i = 0; i < ends.size(); ++i) {
    INCR_RETURN_IF_ERROR(ApplyOptions(builder, *ends[i], pair[i].get()));
    INCR_RETURN_IF_ERROR(ShutDown(builder, *ends[i], pair[i].get()));
    INCR_RETURN_IF_ERROR(SetStatusFlags(builder, *ends[i], pair[i].get()));
    INCR_RETURN_IF_ERROR(builder.Add(*ends[i], std::move(pair[i])));
  }
  return absl::OkStatus();
}

}  // namespace incr
