// unix_socket.h — the daemon's socket in a store's directory, however long its path.
//
// sun_path holds 107 bytes. A longer path goes through /proc/self/fd/<directory>/, so
// the directory stays open as long as the address is in use. Thread-safe.
#ifndef INCR_CKPT_CLI_UNIX_SOCKET_H_
#define INCR_CKPT_CLI_UNIX_SOCKET_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"

namespace incr {

inline constexpr char kSocketName[] = "daemon.sock";

class SocketAddress {
 public:
  // `directory` must exist (kNotFound).
  static absl::StatusOr<SocketAddress> In(const std::string& directory);

  // Short enough for sun_path; valid in this process while this object lives.
  const std::string& path() const { return path_; }
  // For messages.
  const std::string& name() const { return name_; }

 private:
  ScopedFd directory_;
  std::string path_;
  std::string name_;
};

// Listens, mode 0600. Takes the place of whatever a killed daemon left there: only the
// owner of the store's lock may call it.
absl::StatusOr<ScopedFd> ListenOn(const SocketAddress& address);

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
};
// SO_PEERCRED: who connected, vouched for by the kernel.
absl::StatusOr<Peer> PeerOf(int socket_fd);

}  // namespace incr

#endif  // INCR_CKPT_CLI_UNIX_SOCKET_H_
