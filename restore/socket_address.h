// socket_address.h — binding a socket to an address out of an image.
#ifndef INCR_CKPT_RESTORE_SOCKET_ADDRESS_H_
#define INCR_CKPT_RESTORE_SOCKET_ADDRESS_H_

#include <sys/socket.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// A struct sockaddr of the socket's own family, checked.
struct CheckedAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  bool bound() const;          // has a port, or a name
  std::string path() const;    // of a pathname Unix socket, else ""
};
absl::StatusOr<CheckedAddress> CheckAddress(const FileBuilder& builder, const pb::OpenFile& file,
                                            const std::string& bytes);

// Binds `fd` to the image's local address, if it has one. A relative Unix path is taken
// from the image's working directory; the file goes with builder.socket_files() unless kept.
absl::Status BindAddress(FileBuilder& builder, const pb::OpenFile& file, int fd);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_SOCKET_ADDRESS_H_
