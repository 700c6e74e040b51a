// api.h — start here for the daemon: HTTP requests to calls, results to JSON.
//
//   GET  /v1/version | /v1/status | /v1/epochs[?job=NAME] | /v1/gc
//   POST /v1/start | /v1/adopt | /v1/checkpoint | /v1/stop | /v1/import | /v1/gc | /v1/gc/stop
//        (bodies: proto/control.proto)
//
// An error is an HTTP status and an ErrorReply. Thread-safe.
#ifndef INCR_CKPT_CLI_API_H_
#define INCR_CKPT_CLI_API_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/daemon_settings.h"
#include "cli/gc_keeper.h"
#include "cli/http_server.h"
#include "cli/job_table.h"
#include "proto/control.pb.h"
#include "store/store.h"

namespace incr {

inline constexpr uint32_t kApiVersion = 1;

class Api {
 public:
  // All outlive it. `store_directory` is what status shows.
  Api(JobTable* jobs, const StoreReader* store, std::string store_directory,
      const DaemonSettings& settings = DaemonSettings(), GcKeeper* gc = nullptr)
      : jobs_(jobs),
        store_(store),
        store_directory_(std::move(store_directory)),
        settings_(settings),
        gc_(gc) {}

  // What /v1/import does for `caller`. Before the first request.
  using Importer = std::function<absl::StatusOr<pb::ImportReply>(const pb::ImportRequest&, pid_t caller)>;
  void set_importer(Importer importer) { importer_ = std::move(importer); }

  HttpResponse Handle(const HttpRequest& request) const;

 private:
  absl::StatusOr<std::string> Get(const HttpRequest& request) const;
  absl::StatusOr<std::string> Post(const HttpRequest& request) const;

  JobTable* const jobs_;
  const StoreReader* const store_;
  const std::string store_directory_;
  const DaemonSettings settings_;
  GcKeeper* const gc_;
  Importer importer_;
};

// The ErrorReply of `status`, and back.
HttpResponse ErrorResponse(const absl::Status& status);
absl::Status StatusFromError(int http_status, const std::string& body);

}  // namespace incr

#endif  // INCR_CKPT_CLI_API_H_
