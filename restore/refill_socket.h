// refill_socket.h — what a Unix socket had not read yet, sent to it again.
#ifndef INCR_CKPT_RESTORE_REFILL_SOCKET_H_
#define INCR_CKPT_RESTORE_REFILL_SOCKET_H_

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// `peer`: the other end of the new pair. Its buffer is enlarged for the while if need be.
absl::Status RefillSocket(const FileBuilder& builder, const pb::OpenFile& file, int peer);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_REFILL_SOCKET_H_
