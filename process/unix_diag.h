// unix_diag.h — what only sock_diag tells of a Unix socket: its peer, its backlog, its file.
#ifndef INCR_CKPT_PROCESS_UNIX_DIAG_H_
#define INCR_CKPT_PROCESS_UNIX_DIAG_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"

namespace incr {

struct UnixSocketFacts {
  uint64_t peer_inode = 0;  // 0: no peer, or the peer is closed
  uint32_t backlog = 0;     // listening: as given to listen()
  uint32_t pending = 0;     // listening: not yet accepted; else bytes queued for reading
  bool has_file = false;
  uint64_t file_inode = 0;   // of the socket's file
  uint32_t shutdown = 0;     // 1: receive, 2: send
};

// Asks about one socket of the caller's network namespace at a time, about 5 us each.
// Not thread-safe.
class UnixDiag {
 public:
  static absl::StatusOr<UnixDiag> Open();
  // kNotFound: no such socket. `inode`: st_ino of the socket.
  absl::StatusOr<UnixSocketFacts> Query(uint64_t inode) const;

 private:
  explicit UnixDiag(ScopedFd socket) : socket_(std::move(socket)) {}
  ScopedFd socket_;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_UNIX_DIAG_H_
