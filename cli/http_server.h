// http_server.h — HTTP over a listening Unix socket; the one file that knows libmicrohttpd.
//
// A thread per connection, so a handler may block for as long as an epoch takes. Only peers of our
// own uid (or root) get further than 403.
#ifndef INCR_CKPT_CLI_HTTP_SERVER_H_
#define INCR_CKPT_CLI_HTTP_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "cli/unix_socket.h"

namespace incr {

struct HttpRequest {
  std::string method;
  std::string path;
  std::map<std::string, std::string> query;
  std::string body;  // at most kMaxRequestBytes
  Peer peer;
};

struct HttpResponse {
  int status = 200;
  std::string body;  // JSON
};

inline constexpr size_t kMaxRequestBytes = 64 * 1024;

class HttpServer {
 public:
  // Called from many threads at once.
  using Handler = std::function<HttpResponse(const HttpRequest&)>;

  // Serves from the moment it returns.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Serve(ScopedFd listening_socket,
                                                           Handler handler);
  // Waits for the handlers that run, and up to 5 s until their replies are sent; closes the
  // socket.
  virtual ~HttpServer() = default;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_HTTP_SERVER_H_
