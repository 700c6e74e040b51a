// dropped_connection.h — a connection that the far end, having gone on without us, cannot
// continue: the program gets a real socket whose peer has reset (TCP) or closed (Unix) it, so
// that its own handling of a lost client does the rest.
#ifndef INCR_CKPT_RESTORE_DROPPED_CONNECTION_H_
#define INCR_CKPT_RESTORE_DROPPED_CONNECTION_H_

#include <sys/socket.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// Keeps one loopback listener per family for all the connections of an image. Not thread-safe.
class ConnectionDropper {
 public:
  explicit ConnectionDropper(FileBuilder& builder) : builder_(builder) {}
  // read() gives ECONNRESET and then the end; poll and epoll report POLLIN|POLLERR|POLLHUP.
  // A Unix socket first gives what was unread.
  absl::Status Open(const pb::OpenFile& file);

 private:
  struct Listener {
    ScopedFd fd;
    sockaddr_storage address{};
    socklen_t length = 0;
  };
  absl::StatusOr<ScopedFd> ResetTcp(const pb::OpenFile& file);
  absl::StatusOr<ScopedFd> ClosedUnix(const pb::OpenFile& file);
  absl::Status Listen(const pb::OpenFile& file, Listener* listener);

  FileBuilder& builder_;
  Listener listener_;  // 127.0.0.1; IPv6 sockets connect to it by its mapped address
};

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_DROPPED_CONNECTION_H_
