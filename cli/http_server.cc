#include "cli/http_server.h"

#include <microhttpd.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace incr {
namespace {

// A client that does not read its reply must not keep the daemon.
constexpr absl::Duration kLastRepliesPatience = absl::Seconds(5);
// A body this far over the limit is not worth reading to its end.
constexpr size_t kHangUpBytes = 16 * kMaxRequestBytes;

struct PendingRequest {
  HttpRequest request;
  size_t body_bytes = 0;  // seen, also those beyond the limit
};

HttpResponse Refusal(int status, const std::string& why) {
  return {status, absl::StrCat("{\"error\":\"", why, "\",\"code\":0}")};
}

class MicrohttpdServer : public HttpServer {
 public:
  explicit MicrohttpdServer(Handler handler) : handler_(std::move(handler)) {}
  ~MicrohttpdServer() override {
    if (daemon_ == nullptr) return;
    {
      // MHD_stop_daemon cuts off replies that are queued but not sent: the one to the very
      // `stop` that ends us was lost that way.
      absl::MutexLock lock(&mutex_);
      const auto none = [this] { return in_flight_ == 0; };
      mutex_.AwaitWithTimeout(absl::Condition(&none), kLastRepliesPatience);
    }
    MHD_stop_daemon(daemon_);
  }

  absl::Status Start(ScopedFd socket) {
    const unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION |
                           MHD_USE_POLL | MHD_USE_ITC;
    daemon_ = MHD_start_daemon(
        flags, 0, nullptr, nullptr, &OnRequest, this, MHD_OPTION_LISTEN_SOCKET, socket.get(),
        MHD_OPTION_NOTIFY_COMPLETED, &OnCompleted, this, MHD_OPTION_CONNECTION_LIMIT, 256u,
        MHD_OPTION_END);
    if (daemon_ == nullptr) return absl::InternalError("libmicrohttpd does not start");
    socket.release();  // MHD_stop_daemon closes it.
    return absl::OkStatus();
  }

 private:
  static MHD_Result OnQueryArgument(void* cls, MHD_ValueKind, const char* key, const char* value) {
    static_cast<HttpRequest*>(cls)->query[key] = value == nullptr ? "" : value;
    return MHD_YES;
  }

  static MHD_Result Reply(MHD_Connection* connection, const HttpResponse& reply) {
    MHD_Response* response = MHD_create_response_from_buffer(
        reply.body.size(), const_cast<char*>(reply.body.data()), MHD_RESPMEM_MUST_COPY);
    if (response == nullptr) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    const MHD_Result queued = MHD_queue_response(connection, reply.status, response);
    MHD_destroy_response(response);
    return queued;
  }

  // Called once when the headers are in, then per piece of body, then once with no data left.
  static MHD_Result OnRequest(void* cls, MHD_Connection* connection, const char* url,
                              const char* method, const char*, const char* data, size_t* size,
                              void** state) {
    auto* server = static_cast<MicrohttpdServer*>(cls);
    if (*state == nullptr) {
      auto* pending = new PendingRequest;
      *state = pending;
      server->CountInFlight(+1);
      return server->Begin(connection, url, method, pending);
    }
    auto* pending = static_cast<PendingRequest*>(*state);
    if (*size > 0) {
      pending->body_bytes += *size;
      if (pending->body_bytes <= kMaxRequestBytes) pending->request.body.append(data, *size);
      *size = 0;
      return pending->body_bytes > kHangUpBytes ? MHD_NO : MHD_YES;
    }
    if (pending->body_bytes > kMaxRequestBytes) {
      return Reply(connection, Refusal(413, "the request is too large"));
    }
    return Reply(connection, server->handler_(pending->request));
  }

  MHD_Result Begin(MHD_Connection* connection, const char* url, const char* method,
                   PendingRequest* pending) {
    const MHD_ConnectionInfo* info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == nullptr) return MHD_NO;
    absl::StatusOr<Peer> peer = PeerOf(info->connect_fd);
    if (!peer.ok() || (peer->uid != 0 && peer->uid != ::geteuid())) {
      return Reply(connection, Refusal(403, "this socket serves its owner only"));
    }
    const char* length =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    uint64_t bytes = 0;
    if (length != nullptr && absl::SimpleAtoi(length, &bytes) && bytes > kMaxRequestBytes) {
      return Reply(connection, Refusal(413, "the request is too large"));
    }
    pending->request.peer = *peer;
    pending->request.method = method;
    pending->request.path = url;
    MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, &OnQueryArgument,
                              &pending->request);
    return MHD_YES;
  }

  // After the last byte of the reply was handed to the kernel, or the connection broke.
  static void OnCompleted(void* cls, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
    if (*state == nullptr) return;
    delete static_cast<PendingRequest*>(*state);
    *state = nullptr;
    static_cast<MicrohttpdServer*>(cls)->CountInFlight(-1);
  }

  void CountInFlight(int change) {
    absl::MutexLock lock(&mutex_);
    in_flight_ += change;
  }

  const Handler handler_;
  MHD_Daemon* daemon_ = nullptr;
  absl::Mutex mutex_;
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Serve(ScopedFd listening_socket,
                                                              Handler handler) {
  auto server = std::make_unique<MicrohttpdServer>(std::move(handler));
  INCR_RETURN_IF_ERROR(server->Start(std::move(listening_socket)));
  return server;
}

}  // namespace incr
