#include "cli/daemon_client.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/api.h"
#include "cli/daemon.h"
#include "cli/json.h"
#include "cli/spawn_daemon.h"

namespace incr {
namespace {

// Status and version are answered from memory.
constexpr int kQuickMs = 10'000;
// A winner of the race for the store may have to recover a large one first.
constexpr int64_t kLockPatienceUs = 60'000'000;
constexpr useconds_t kFirstPauseUs = 5'000, kLongestPauseUs = 200'000;
// A daemon that is exiting closes its store first, on a slow disk for a while.
constexpr int64_t kExitPatienceUs = 30'000'000;

}  // namespace

absl::StatusOr<DaemonClient> DaemonClient::ForStore(const std::string& directory,
                                                    std::vector<std::string> spawn) {
  INCR_ASSIGN_OR_RETURN(SocketAddress address, SocketAddress::In(directory));
  return DaemonClient(std::move(address), directory, std::move(spawn));
}

template <typename Reply>
absl::StatusOr<Reply> DaemonClient::Call(const std::string& path,
                                         const google::protobuf::Message* request,
                                         const HttpOptions& options) {
  const std::string body = request == nullptr ? "" : ToJson(*request);
  absl::StatusOr<HttpReply> http =
      HttpCall(address_, path, request == nullptr ? nullptr : &body, options);
  if (absl::IsAborted(http.status())) {
    return absl::AbortedError(
        absl::StrCat("the daemon went away before it had answered; see ", directory_, "/",
                     kDaemonLog));
  }
  if (absl::IsUnavailable(http.status())) {
    return absl::UnavailableError(absl::StrCat("no daemon runs on ", directory_));
  }
  if (absl::IsDeadlineExceeded(http.status())) {
    return absl::DeadlineExceededError(
        absl::StrCat("the daemon on ", directory_, " does not answer"));
  }
  INCR_RETURN_IF_ERROR(http.status());
  if (http->status != 200) return StatusFromError(http->status, http->body);
  Reply reply;
  const absl::Status parsed = FromJson(http->body, &reply);
  if (!parsed.ok()) return Annotate(parsed, "the daemon's answer");
  return reply;
}

absl::StatusOr<pb::StatusReply> DaemonClient::Status() {
  return Call<pb::StatusReply>("/v1/status", nullptr, {kQuickMs, nullptr});
}

absl::StatusOr<pb::EpochReply> DaemonClient::Checkpoint(const pb::CheckpointRequest& request,
                                                        std::function<bool()> keep_waiting) {
  return Call<pb::EpochReply>("/v1/checkpoint", &request, {0, std::move(keep_waiting)});
}

absl::StatusOr<pb::StopReply> DaemonClient::Stop(const pb::StopRequest& request) {
  return Call<pb::StopReply>("/v1/stop", &request);
}

absl::StatusOr<pb::GcReply> DaemonClient::Gc(const pb::GcRequest& request,
                                             std::function<bool()> keep_waiting) {
  return Call<pb::GcReply>("/v1/gc", &request, {0, std::move(keep_waiting)});
}

absl::StatusOr<pb::GcStatusReply> DaemonClient::GcStatus() {
  return Call<pb::GcStatusReply>("/v1/gc", nullptr, {kQuickMs, nullptr});
}

absl::Status DaemonClient::StopGc() {
  const pb::GcStatusReply nothing;
  return Call<pb::GcStatusReply>("/v1/gc/stop", &nothing, {kQuickMs, nullptr}).status();
}

absl::StatusOr<pb::ImportReply> DaemonClient::Import(const pb::ImportRequest& request,
                                                     std::function<bool()> keep_waiting) {
  return Call<pb::ImportReply>("/v1/import", &request, {0, std::move(keep_waiting)});
}

absl::Status DaemonClient::EnsureDaemon() {
  const Stopwatch waited;
  useconds_t pause_us = kFirstPauseUs;
  for (;;) {
    const auto version = Call<pb::VersionReply>("/v1/version", nullptr, {kQuickMs, nullptr});
    if (version.ok()) return absl::OkStatus();
    if (!absl::IsUnavailable(version.status()) && !absl::IsAborted(version.status())) {
      return version.status();
    }
    const absl::Status spawned = SpawnDaemon(spawn_);
    if (!absl::IsAborted(spawned)) return spawned;
    // Another daemon has the store's lock: it is about to listen, or to exit.
    if (waited.elapsed_us() > kLockPatienceUs) {
      return absl::UnavailableError(
          absl::StrCat("no daemon answers on ", directory_, ", but ", spawned.message()));
    }
    ::usleep(pause_us);
    pause_us = std::min(pause_us * 2, kLongestPauseUs);
  }
}

absl::StatusOr<pb::EpochReply> DaemonClient::CallWithDaemon(
    const std::string& path, const google::protobuf::Message& request,
    const HttpOptions& options) {
  absl::StatusOr<pb::EpochReply> reply = absl::UnavailableError("not tried");
  const Stopwatch waited;
  bool asked_again = false;
  for (useconds_t pause_us = kFirstPauseUs;; pause_us = std::min(pause_us * 2, kLongestPauseUs)) {
    INCR_RETURN_IF_ERROR(EnsureDaemon());
    reply = Call<pb::EpochReply>(path, &request, options);
    if (absl::IsUnavailable(reply.status()) && waited.elapsed_us() < kExitPatienceUs) {
      // Refused because it is exiting, surely not begun. It still answers while it closes its store.
      ::usleep(pause_us);
      continue;
    }
    // Gone in the middle: it took the request down with it. Once may be a kill, twice is a crash.
    if (absl::IsAborted(reply.status()) && !std::exchange(asked_again, true) && !Status().ok()) {
      continue;
    }
    return reply;
  }
}

absl::StatusOr<pb::EpochReply> DaemonClient::Start(const pb::StartRequest& request,
                                                   std::function<bool()> keep_waiting) {
  return CallWithDaemon("/v1/start", request, {0, std::move(keep_waiting)});
}

absl::StatusOr<pb::EpochReply> DaemonClient::Adopt(const pb::AdoptRequest& request,
                                                   std::function<bool()> keep_waiting) {
  return CallWithDaemon("/v1/adopt", request, {0, std::move(keep_waiting)});
}

}  // namespace incr
