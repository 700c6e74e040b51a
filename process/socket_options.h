// socket_options.h — the socket options that a checkpoint keeps, and addresses in words.
//
// One table serves both sides: what is read is what may be set, so that an image
// cannot name an option of its own choosing. Pure but for get/setsockopt; thread-safe.
#ifndef INCR_CKPT_PROCESS_SOCKET_OPTIONS_H_
#define INCR_CKPT_PROCESS_SOCKET_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace incr {

struct SocketOptionValue {
  int level = 0;
  int name = 0;
  std::string value;  // as getsockopt gives it
};

// Every option of the table that this socket has. `domain`, `type`, `protocol`: its own.
// SO_RCVBUF and SO_SNDBUF only where the program fixed them (SO_BUF_LOCK): setting one
// ends the kernel's own tuning.
std::vector<SocketOptionValue> ReadSocketOptions(int fd, int domain, int type, int protocol);

// Does nothing where the socket has that value already. kInvalidArgument for an option that
// is not in the table; otherwise what the kernel said, naming the option.
absl::Status ApplySocketOption(int fd, const SocketOptionValue& option);

// getsockopt of an int.
absl::StatusOr<int> GetSocketInt(int fd, int level, int name, absl::string_view what);

// "127.0.0.1:6379", "[::1]:80", "/run/x.sock", "@abstract", "(unnamed)". For people.
// Any bytes are accepted.
std::string DescribeAddress(absl::string_view address);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_SOCKET_OPTIONS_H_
