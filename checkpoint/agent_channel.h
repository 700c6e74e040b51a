// agent_channel.h — messages between session and agent: a 4-byte length, then a
// serialised proto; a descriptor may ride on the length (SCM_RIGHTS).
#ifndef INCR_CKPT_CHECKPOINT_AGENT_CHANNEL_H_
#define INCR_CKPT_CHECKPOINT_AGENT_CHANNEL_H_

#include <google/protobuf/message_lite.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"

namespace incr {

enum class ReceiveOutcome { kMessage, kClosed, kTimeout };

// `attached_fd` -1: none. kUnavailable when the other end is gone. Never raises SIGPIPE.
absl::Status SendMessage(int socket, const google::protobuf::MessageLite& message,
                         int attached_fd = -1);

// Waits up to `us` for a message without going to sleep, while others may run: for moments in which the
// target stands still. A CPU that has gone to sleep takes 0.1 ms and more to come back, and a thread
// that slept may be woken on the CPU of whom it waited for. True if there is a message (or the end).
bool StayAwake(int socket, int64_t us);

// `timeout_ms` -1: for ever; it bounds the wait for the first byte. `attached` may be null.
absl::StatusOr<ReceiveOutcome> ReceiveMessage(int socket, int timeout_ms,
                                              google::protobuf::MessageLite* message,
                                              ScopedFd* attached);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_AGENT_CHANNEL_H_
