#include "restore/refill_socket.h"

#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "process/socket_options.h"

namespace incr {
namespace {

constexpr size_t kMaxUnread = 64u << 20;   // as the capture has it
constexpr size_t kFitsAnyway = 64u << 10;  // half of the smallest common default buffer
constexpr int kBufLock = 72;               // SO_BUF_LOCK

void SetSendBuffer(int fd, int bytes) {
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
}

}  // namespace

absl::Status RefillSocket(const FileBuilder& builder, const pb::OpenFile& file, int peer) {
  const std::string& unread = file.socket().unread();
  if (unread.empty()) return absl::OkStatus();
  if (unread.size() > kMaxUnread) return builder.Malformed(file, "has too much unread data");
  INCR_ASSIGN_OR_RETURN(int usual, GetSocketInt(peer, SOL_SOCKET, SO_SNDBUF, builder.Name(file)));
  const bool enlarge = unread.size() > kFitsAnyway;
  if (enlarge) SetSendBuffer(peer, static_cast<int>(unread.size()) * 2);
  size_t done = 0;
  while (done < unread.size()) {
    const ssize_t n = ::send(peer, unread.data() + done, unread.size() - done,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return builder.RefuseErrno(file, "send(what was unread)");
    done += static_cast<size_t>(n);
  }
  if (enlarge) {
    SetSendBuffer(peer, usual / 2);
    const int unlocked = 0;
    ::setsockopt(peer, SOL_SOCKET, kBufLock, &unlocked, sizeof unlocked);
  }
  return absl::OkStatus();
}

}  // namespace incr
