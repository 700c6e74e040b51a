// capture_sockets.h — sockets, by way of our own descriptor of each (pidfd_getfd).
//
//   listening, TCP or Unix          LISTENING_SOCKET
//   TCP in any connected state      DROPPED_CONNECTION and a warning: the peer will have gone on
//   Unix, both ends here            SOCKET_PAIR with what is unread
//   Unix, peer outside              DROPPED_CONNECTION and a warning, or STDIO on fd 0..2
//   UDP; Unix datagram              DATAGRAM_SOCKET
//   neither bound nor connected     UNBOUND_SOCKET
//   anything else                   unsupported
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_SOCKETS_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_SOCKETS_H_

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/open_description.h"
#include "process/unix_diag.h"
#include "proto/image.pb.h"

namespace incr {

class SocketCapture {
 public:
  // Both outlive it.
  SocketCapture(const FileCapture& capture, pb::Image* image)
      : capture_(capture), image_(image) {}

  // OK and `file` filled in, kUnimplemented (Unsupported()) or a failure.
  absl::Status Capture(const OpenDescription& description, pb::OpenFile* file);

  // After the last: one warning for the lost connections beyond the first few, so that a server
  // of ten thousand clients does not fill every epoch with them.
  void Finish();

 private:
  struct Opened;  // one socket while it is looked at
  absl::Status CaptureInet(const Opened& socket, pb::OpenFile* file);
  absl::Status CaptureTcp(const Opened& socket, pb::OpenFile* file);
  absl::Status CaptureUnix(const Opened& socket, pb::OpenFile* file);
  absl::Status CaptureUnixListener(const Opened& socket, const UnixSocketFacts& facts,
                                   pb::OpenFile* file);
  absl::Status CaptureUnixPair(const Opened& socket, const UnixSocketFacts& facts,
                               pb::OpenFile* file);
  absl::Status CaptureUnixConnected(const Opened& socket, const UnixSocketFacts& facts,
                                    pb::OpenFile* file);
  absl::Status CaptureDatagram(const Opened& socket, pb::OpenFile* file);
  absl::Status CaptureUnixFile(const Opened& socket, const UnixSocketFacts& facts,
                               pb::Socket* saved);
  absl::Status CaptureOptions(const Opened& socket, pb::Socket* saved);
  absl::Status CaptureUnread(const Opened& socket, pb::Socket* saved);
  absl::StatusOr<UnixSocketFacts> QueryUnix(uint64_t inode);
  bool BecomesStdioSocket(const Opened& socket, pb::OpenFile* file);
  void Warn(const Opened& socket, absl::string_view text);
  void WarnOfLost(const Opened& socket, absl::string_view text);

  const FileCapture& capture_;
  pb::Image* image_;
  std::optional<UnixDiag> unix_diag_;  // opened at the first Unix socket
  int lost_ = 0;                       // connections
  std::vector<int> lost_unnamed_;      // those without a warning of their own
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_SOCKETS_H_
