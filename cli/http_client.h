// http_client.h — HTTP to a Unix socket; the one file that knows libcurl. Thread-safe.
#ifndef INCR_CKPT_CLI_HTTP_CLIENT_H_
#define INCR_CKPT_CLI_HTTP_CLIENT_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/unix_socket.h"

namespace incr {

struct HttpReply {
  int status = 0;
  std::string body;
};

struct HttpOptions {
  int timeout_ms = 0;  // 0: as long as the server is alive
  // Called about once a second while waiting; false gives the request up (kCancelled).
  std::function<bool()> keep_waiting;
};

// One request on a connection of its own. `body` nullptr: GET, else POST. kUnavailable:
// nobody listens, nothing was sent. kAborted: the server went away after the request may
// have reached it.
absl::StatusOr<HttpReply> HttpCall(const SocketAddress& address, const std::string& path,
                                   const std::string* body, const HttpOptions& options = {});

std::string UrlEscape(absl::string_view text);

}  // namespace incr

#endif  // INCR_CKPT_CLI_HTTP_CLIENT_H_
