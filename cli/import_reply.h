// import_reply.h — an import as the daemon and the command itself do it.
#ifndef INCR_CKPT_CLI_IMPORT_REPLY_H_
#define INCR_CKPT_CLI_IMPORT_REPLY_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/control.pb.h"
#include "store/store.h"

namespace incr {

// `fd`: the file. `may_take` (may be null): whether that job may be given epochs now. `stopped`: asked again and again,
// also while a pipe gives nothing; kCancelled once it says so.
absl::StatusOr<pb::ImportReply> ImportInto(Store* store, int fd, const pb::ImportRequest& request,
                                           const std::function<void(uint64_t bytes)>& progress,
                                           const std::function<absl::Status(const std::string& job)>& may_take,
                                           const std::function<bool()>& stopped);

}  // namespace incr

#endif  // INCR_CKPT_CLI_IMPORT_REPLY_H_
