#include "checkpoint/agent_client.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "checkpoint/agent_channel.h"

extern char** environ;

namespace incr {
namespace {

constexpr int kAgentSocket = 3;
// Freezing gives up after 10 s by itself; this bounds a broken agent.
constexpr int kReplyPatienceMs = 60'000;
constexpr int64_t kEndPatienceUs = 10'000'000;
constexpr int64_t kFreezeUs = 1'000;  // so long it takes at most, usually

absl::Status StatusOf(const pb::AgentReply& reply) {
  return absl::Status(static_cast<absl::StatusCode>(reply.code()), reply.message());
}

}  // namespace

absl::StatusOr<AgentClient> AgentClient::Spawn(const std::vector<std::string>& command) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus("socketpair(agent)");
  }
  ScopedFd ours(ends[0]), theirs(ends[1]);
  if (theirs.get() == kAgentSocket) {  // dup2 onto itself would keep close-on-exec.
    theirs = ScopedFd(::fcntl(theirs.get(), F_DUPFD_CLOEXEC, kAgentSocket + 1));
  }
  std::vector<std::string> arguments = command;
  arguments.push_back(absl::StrCat(kAgentSocket));
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), kAgentSocket);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  // A session of its own: a Ctrl-C at the daemon's terminal must not reach the tracer.
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("posix_spawn(", argv[0], ")"));
  return AgentClient(pid, std::move(ours));
}

AgentClient::AgentClient(AgentClient&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      socket_(std::move(other.socket_)),
      calls_over_(other.calls_over_) {}

AgentClient& AgentClient::operator=(AgentClient&& other) noexcept {
  if (this == &other) return *this;
  Close();
  pid_ = std::exchange(other.pid_, 0);
  socket_ = std::move(other.socket_);
  calls_over_ = other.calls_over_;
  return *this;
}

AgentClient::~AgentClient() { Close(); }

void AgentClient::Close() {
  socket_.reset();
  if (pid_ == 0) return;
  // It ends by itself, unless it sleeps in a call that does not return (a dead network file
  // system) or was stopped; then the kernel lets the target go for it.
  for (const Stopwatch watch; ::waitpid(pid_, nullptr, WNOHANG) == 0; ::usleep(1000)) {
    if (watch.elapsed_us() > kEndPatienceUs) ::kill(pid_, SIGKILL);
  }
  pid_ = 0;
}

absl::Status AgentClient::Send(pb::AgentRequest::Operation operation) {
  pb::AgentRequest request;
  request.set_operation(operation);
  request.set_cpu(::sched_getcpu());
  return SendMessage(socket_.get(), request);
}

absl::StatusOr<pb::AgentReply> AgentClient::ReceiveAny(ScopedFd* attached) {
  pb::AgentReply reply;
  INCR_ASSIGN_OR_RETURN(ReceiveOutcome outcome,
                        ReceiveMessage(socket_.get(), kReplyPatienceMs, &reply, attached));
  if (outcome == ReceiveOutcome::kClosed) {
    return absl::UnavailableError(absl::StrCat("the tracing agent (pid ", pid_, ") has died"));
  }
  if (outcome == ReceiveOutcome::kTimeout) {
    socket_.reset();  // It thaws when it comes to itself; its late replies must not be taken for others.
    return absl::UnavailableError(absl::StrCat("the tracing agent (pid ", pid_, ") hangs"));
  }
  return reply;
}

// The next answer, not `calls_over`, which comes when it likes.
absl::StatusOr<pb::AgentReply> AgentClient::Receive(ScopedFd* attached) {
  absl::StatusOr<pb::AgentReply> reply;
  do {
    reply = ReceiveAny(attached);
    if (reply.ok()) calls_over_ |= reply->calls_over();
  } while (reply.ok() && reply->calls_over());
  return reply;
}

absl::StatusOr<pb::AgentReply> AgentClient::ReceiveOk(ScopedFd* attached) {
  INCR_ASSIGN_OR_RETURN(pb::AgentReply reply, Receive(attached));
  INCR_RETURN_IF_ERROR(StatusOf(reply));
  return reply;
}

absl::StatusOr<ScopedFd> AgentClient::Attach(const ProcessHandle& target,
                                             uint64_t uffd_features) {
  pb::AgentRequest request;
  request.set_operation(pb::AgentRequest::ATTACH);
  request.set_pid(target.pid());
  request.set_start_time(target.start_time());
  request.set_uffd_features(uffd_features);
  INCR_RETURN_IF_ERROR(SendMessage(socket_.get(), request));
  ScopedFd uffd;
  INCR_RETURN_IF_ERROR(ReceiveOk(&uffd).status());
  if (uffd_features != 0 && !uffd.ok()) {
    return absl::InternalError("the tracing agent sent no userfaultfd");
  }
  return uffd;
}

absl::Status AgentClient::Freeze(const FreezeOptions& options) {
  pb::AgentRequest request;
  request.set_operation(pb::AgentRequest::FREEZE);
  request.set_cpu(::sched_getcpu());
  request.set_bare(options.bare);
  request.set_allow_unsupported(options.allow_unsupported);
  request.set_deleted_files(options.deleted_files);
  request.set_settled(options.settled);
  request.set_scratch(options.scratch);
  INCR_RETURN_IF_ERROR(SendMessage(socket_.get(), request));
  StayAwake(socket_.get(), kFreezeUs);
  INCR_RETURN_IF_ERROR(ReceiveOk().status());
  calls_over_ = options.bare || options.settled;
  return absl::OkStatus();
}

absl::Status AgentClient::AwaitCalls(int64_t us) {
  if (calls_over_ || !StayAwake(socket_.get(), us)) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const pb::AgentReply reply, ReceiveAny(nullptr));
  calls_over_ = true;
  return reply.calls_over() ? absl::OkStatus()
                            : absl::InternalError("the tracing agent speaks out of turn");
}

absl::Status AgentClient::KeepFrozen() { return Send(pb::AgentRequest::KEEP_FROZEN); }

absl::StatusOr<AgentClient::Thawed> AgentClient::Thaw() {
  INCR_RETURN_IF_ERROR(Send(pb::AgentRequest::THAW));
  INCR_ASSIGN_OR_RETURN(const pb::AgentReply reply, Receive());
  Thawed thawed{reply.held(), reply.frozen_us(), StatusOf(reply), {}, reply.scratch()};
  if (!thawed.image.ParseFromString(reply.image())) {
    return absl::InternalError("the tracing agent's image does not parse");
  }
  return thawed;
}

}  // namespace incr
