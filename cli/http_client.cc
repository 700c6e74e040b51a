#include "cli/http_client.h"

#include <curl/curl.h>

#include <cctype>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr size_t kMaxReplyBytes = 256u << 20;

size_t OnData(char* data, size_t size, size_t count, void* reply) {
  auto* body = &static_cast<HttpReply*>(reply)->body;
  if (body->size() + size * count > kMaxReplyBytes) return 0;
  body->append(data, size * count);
  return size * count;
}

int OnProgress(void* options, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<const HttpOptions*>(options)->keep_waiting() ? 0 : 1;
}

absl::Status ToStatus(CURLcode code, const SocketAddress& address) {
  const std::string what = absl::StrCat(address.name(), ": ", curl_easy_strerror(code));
  switch (code) {
    case CURLE_COULDNT_CONNECT:
      return absl::UnavailableError(what);
    case CURLE_OPERATION_TIMEDOUT:
      return absl::DeadlineExceededError(what);
    case CURLE_ABORTED_BY_CALLBACK:
      return absl::CancelledError(what);
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
      return absl::AbortedError(what);
    default:
      return absl::InternalError(what);
  }
}

}  // namespace

absl::StatusOr<HttpReply> HttpCall(const SocketAddress& address, const std::string& path,
                                   const std::string* body, const HttpOptions& options) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (initialised != CURLE_OK || curl == nullptr) return absl::InternalError("libcurl: no handle");
  std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(
      curl_slist_append(nullptr, "Content-Type: application/json"), curl_slist_free_all);
  // No "Expect: 100-continue" pause before larger bodies.
  curl_slist_append(headers.get(), "Expect:");
  HttpReply reply;
  const std::string url = absl::StrCat("http://incr-ckpt", path);
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_UNIX_SOCKET_PATH, address.path().c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROXY, "");  // Whatever http_proxy says.
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, static_cast<long>(options.timeout_ms));
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &OnData);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &reply);
  if (body != nullptr) {
    curl_easy_setopt(curl.get(), CURLOPT_POST, 1L);
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body->data());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE, static_cast<long>(body->size()));
  }
  if (options.keep_waiting) {
    curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, &OnProgress);
    curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, &options);
  }
  const CURLcode code = curl_easy_perform(curl.get());
  if (code != CURLE_OK) return ToStatus(code, address);
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  reply.status = static_cast<int>(status);
  return reply;
}

std::string UrlEscape(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_') {
      escaped += c;
    } else {
      absl::StrAppend(&escaped, "%", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return escaped;
}

}  // namespace incr
