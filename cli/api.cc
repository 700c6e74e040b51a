#include "cli/api.h"

#include <unistd.h>

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/epoch_rows.h"
#include "cli/json.h"
#include "cli/version.h"
#include "proto/control.pb.h"

namespace incr {
namespace {

int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return 400;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kResourceExhausted:
      return 507;
    default:
      return 500;
  }
}

template <typename Reply>
absl::StatusOr<std::string> Body(const absl::StatusOr<Reply>& reply) {
  INCR_RETURN_IF_ERROR(reply.status());
  return ToJson(*reply);
}

absl::Status NoSuchPage(const HttpRequest& request) {
  return absl::NotFoundError(absl::StrCat("no such call: ", CleanText(request.method), " ",
                                          CleanText(request.path)));
}

}  // namespace

HttpResponse ErrorResponse(const absl::Status& status) {
  pb::ErrorReply error;
  error.set_error(CleanText(status.message()));
  error.set_code(static_cast<uint32_t>(status.code()));
  return {HttpStatusOf(status.code()), ToJson(error)};
}

absl::Status StatusFromError(int http_status, const std::string& body) {
  pb::ErrorReply error;
  if (!FromJson(body, &error).ok() || error.error().empty()) {
    return absl::InternalError(absl::StrCat("the daemon answers with HTTP status ", http_status));
  }
  auto code = static_cast<absl::StatusCode>(error.code());
  if (code == absl::StatusCode::kOk) code = absl::StatusCode::kInternal;
  return absl::Status(code, error.error());
}

HttpResponse Api::Handle(const HttpRequest& request) const {
  absl::StatusOr<std::string> body = NoSuchPage(request);
  if (request.method == "GET" || request.method == "HEAD") body = Get(request);
  if (request.method == "POST") body = Post(request);
  if (!body.ok()) return ErrorResponse(body.status());
  return {200, *std::move(body)};
}

absl::StatusOr<std::string> Api::Get(const HttpRequest& request) const {
  if (request.path == "/v1/version") {
    pb::VersionReply reply;
    reply.set_version(kVersion);
    reply.set_daemon_pid(::getpid());
    reply.set_api(kApiVersion);
    return ToJson(reply);
  }
  if (request.path == "/v1/status") {
    pb::StatusReply reply = jobs_->Status();
    reply.set_daemon_pid(::getpid());
    reply.set_store(CleanText(store_directory_));
    if (gc_ != nullptr) gc_->AddErrors(&reply);
    return ToJson(reply);
  }
  if (request.path == "/v1/gc" && gc_ != nullptr) return ToJson(gc_->Status());
  if (request.path == "/v1/epochs") {
    const auto job = request.query.find("job");
    return Body(ListEpochRows(*store_, job == request.query.end() ? "" : job->second));
  }
  return NoSuchPage(request);
}

absl::StatusOr<std::string> Api::Post(const HttpRequest& request) const {
  if (request.path == "/v1/start") {
    pb::StartRequest start;
    INCR_RETURN_IF_ERROR(FromJson(request.body, &start));
    INCR_RETURN_IF_ERROR(CheckAsAsked(
        settings_, {static_cast<uint64_t>(std::clamp(start.memory_limit(), 0.0, 1e18)),
                    start.paranoid()}));
    return Body(jobs_->Start(start));
  }
  if (request.path == "/v1/adopt") {
    pb::AdoptRequest adopt;
    INCR_RETURN_IF_ERROR(FromJson(request.body, &adopt));
    return Body(jobs_->Adopt(adopt, request.peer.pid));
  }
  if (request.path == "/v1/checkpoint") {
    pb::CheckpointRequest checkpoint;
    INCR_RETURN_IF_ERROR(FromJson(request.body, &checkpoint));
    return Body(jobs_->Checkpoint(checkpoint));
  }
  if (request.path == "/v1/gc" && gc_ != nullptr) {
    pb::GcRequest gc;
    INCR_RETURN_IF_ERROR(FromJson(request.body, &gc));
    return Body(gc_->Collect(gc));
  }
  if (request.path == "/v1/gc/stop" && gc_ != nullptr) {
    gc_->CancelCollect();
    return ToJson(gc_->Status());
  }
  if (request.path == "/v1/stop") {
    pb::StopRequest stop;
    INCR_RETURN_IF_ERROR(FromJson(request.body, &stop));
    absl::StatusOr<pb::StopReply> reply = jobs_->Stop(stop);
    if (reply.ok()) reply->set_daemon_pid(::getpid());
    return Body(reply);
  }
  if (request.path == "/v1/import" && importer_) {
    pb::ImportRequest import;
    INCR_RETURN_IF_ERROR(FromJson(request.body, &import));
    return Body(importer_(import, request.peer.pid));
  }
  return NoSuchPage(request);
}

}  // namespace incr
