// daemon_client.h — the daemon of a store as its commands see it.
//
// Not thread-safe.
#ifndef INCR_CKPT_CLI_DAEMON_CLIENT_H_
#define INCR_CKPT_CLI_DAEMON_CLIENT_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/http_client.h"
#include "cli/unix_socket.h"
#include "proto/control.pb.h"

namespace incr {

class DaemonClient {
 public:
  // Does not need a daemon. kNotFound: no such directory. `spawn` is a daemon's argv for
  // this store, without the ready pipe's number.
  static absl::StatusOr<DaemonClient> ForStore(const std::string& directory,
                                               std::vector<std::string> spawn);

  // kUnavailable: no daemon runs.
  absl::StatusOr<pb::StatusReply> Status();
  absl::StatusOr<pb::EpochReply> Checkpoint(const pb::CheckpointRequest& request,
                                            std::function<bool()> keep_waiting = nullptr);
  absl::StatusOr<pb::StopReply> Stop(const pb::StopRequest& request);
  absl::StatusOr<pb::ImportReply> Import(const pb::ImportRequest& request, std::function<bool()> keep_waiting);

  // kUnavailable also: it is exiting.
  absl::StatusOr<pb::GcReply> Gc(const pb::GcRequest& request, std::function<bool()> keep_waiting);
  absl::StatusOr<pb::GcStatusReply> GcStatus();
  absl::Status StopGc();

  // A daemon serves this store when it returns OK: the one that ran, ours, or the
  // winner of a race. kUnavailable: another program holds the store.
  absl::Status EnsureDaemon();

  // These start a daemon if none runs, and another one if it is just exiting.
  // `keep_waiting` is called about once a second; false gives up (kCancelled).
  absl::StatusOr<pb::EpochReply> Start(const pb::StartRequest& request,
                                       std::function<bool()> keep_waiting);
  absl::StatusOr<pb::EpochReply> Adopt(const pb::AdoptRequest& request,
                                       std::function<bool()> keep_waiting);

 private:
  DaemonClient(SocketAddress address, std::string directory, std::vector<std::string> spawn)
      : address_(std::move(address)), directory_(std::move(directory)), spawn_(std::move(spawn)) {}

  template <typename Reply>
  absl::StatusOr<Reply> Call(const std::string& path, const google::protobuf::Message* request,
                             const HttpOptions& options = {});
  absl::StatusOr<pb::EpochReply> CallWithDaemon(const std::string& path,
                                                const google::protobuf::Message& request,
                                                const HttpOptions& options);

  SocketAddress address_;
  std::string directory_;
  std::vector<std::string> spawn_;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_DAEMON_CLIENT_H_
