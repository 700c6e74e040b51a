// open_sockets.h — sockets made anew with their addresses and options.
#ifndef INCR_CKPT_RESTORE_OPEN_SOCKETS_H_
#define INCR_CKPT_RESTORE_OPEN_SOCKETS_H_

#include <vector>

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// An address that is taken is refused by its name. A Unix socket's file that nobody
// listens on any more is replaced, with its mode; a live one is refused.
absl::Status OpenListeningSocket(FileBuilder& builder, const pb::OpenFile& file);
absl::Status OpenUnboundSocket(FileBuilder& builder, const pb::OpenFile& file);

// A Unix datagram peer that is gone is no error: so it looked to the program whenever its
// peer restarted.
absl::Status OpenDatagramSocket(FileBuilder& builder, const pb::OpenFile& file);

// Both SOCKET_PAIR files of one pair_id; one alone gets a closed peer.
absl::Status OpenSocketPair(FileBuilder& builder, const std::vector<const pb::OpenFile*>& ends);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_OPEN_SOCKETS_H_
