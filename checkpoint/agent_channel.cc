#include "checkpoint/agent_channel.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/clock.h"
#include "base/status.h"

namespace incr {
namespace {

// An image holds at most a few MiB (pipe contents, xstate of many threads).
constexpr uint32_t kMaxMessageBytes = 256u << 20;

absl::Status SendAll(int socket, const char* data, size_t size) {
  while (size > 0) {
    ssize_t n = ::send(socket, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::UnavailableError("the tracing agent's socket is closed");
    data += n;
    size -= n;
  }
  return absl::OkStatus();
}

// False at the end of the stream.
absl::StatusOr<bool> ReceiveAll(int socket, char* data, size_t size) {
  while (size > 0) {
    ssize_t n = ::recv(socket, data, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == ECONNRESET) return false;
    if (n < 0) return ErrnoStatus("recv(agent socket)");
    if (n == 0) return false;
    data += n;
    size -= n;
  }
  return true;
}

// Receives the 4-byte length and the descriptor that may ride on it.
absl::StatusOr<bool> ReceiveLength(int socket, uint32_t* length, ScopedFd* attached) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec iov{length, sizeof *length};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n;
  do {
    n = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno != ECONNRESET) return ErrnoStatus("recvmsg(agent socket)");
  if (n <= 0) return false;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int fd;
    std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
    ScopedFd received(fd);
    if (attached != nullptr) *attached = std::move(received);
  }
  const size_t got = static_cast<size_t>(n);
  return ReceiveAll(socket, reinterpret_cast<char*>(length) + got, sizeof *length - got);
}

}  // namespace

absl::Status SendMessage(int socket, const google::protobuf::MessageLite& message,
                         int attached_fd) {
  std::string bytes;
  if (!message.SerializeToString(&bytes) || bytes.size() > kMaxMessageBytes) {
    return absl::ResourceExhaustedError("message to or from the tracing agent is too large");
  }
  uint32_t length = bytes.size();
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  // In one call: the other side wakes up once, and finds all of it.
  iovec iov[] = {{&length, sizeof length}, {bytes.data(), bytes.size()}};
  msghdr header{};
  header.msg_iov = iov;
  header.msg_iovlen = 2;
  if (attached_fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &attached_fd, sizeof attached_fd);
  }
  ssize_t n;
  do {
    n = ::sendmsg(socket, &header, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return absl::UnavailableError("the tracing agent's socket is closed");
  const size_t of_length = std::min<size_t>(n, sizeof length);
  const size_t of_bytes = n - of_length;
  INCR_RETURN_IF_ERROR(
      SendAll(socket, reinterpret_cast<char*>(&length) + of_length, sizeof length - of_length));
  return SendAll(socket, bytes.data() + of_bytes, bytes.size() - of_bytes);
}

bool StayAwake(int socket, int64_t us) {
  const Stopwatch watch;
  for (pollfd ready{socket, POLLIN, 0}; ::poll(&ready, 1, 0) == 0; ::sched_yield()) {
    if (watch.elapsed_us() >= us) return false;
  }
  return true;
}

absl::StatusOr<ReceiveOutcome> ReceiveMessage(int socket, int timeout_ms,
                                              google::protobuf::MessageLite* message,
                                              ScopedFd* attached) {
  pollfd poll_fd{socket, POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&poll_fd, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return ErrnoStatus("poll(agent socket)");
  if (ready == 0) return ReceiveOutcome::kTimeout;
  uint32_t length = 0;
  INCR_ASSIGN_OR_RETURN(bool open, ReceiveLength(socket, &length, attached));
  if (!open) return ReceiveOutcome::kClosed;
  if (length > kMaxMessageBytes) return absl::InternalError("agent socket: absurd message length");
  std::string bytes(length, '\0');
  INCR_ASSIGN_OR_RETURN(open, ReceiveAll(socket, bytes.data(), length));
  if (!open) return ReceiveOutcome::kClosed;
  if (!message->ParseFromString(bytes)) {
    return absl::InternalError("agent socket: message does not parse");
  }
  return ReceiveOutcome::kMessage;
}

}  // namespace incr
