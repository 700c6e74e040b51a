#include "checkpoint/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/cpu_placement.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "checkpoint/agent_channel.h"
#include "checkpoint/capture_files.h"
#include "checkpoint/capture_process.h"
#include "process/frozen_process.h"
#include "process/process_handle.h"
#include "process/remote_syscalls.h"
#include "process/thread_state.h"
#include "proto/agent.pb.h"
#include "proto/image.pb.h"

namespace incr {
namespace {

constexpr int64_t kStayAwakeUs = 2'000;

class Agent {
 public:
  explicit Agent(int socket) : socket_(socket) {}
  int Run();

 private:
  absl::Status Handle(const pb::AgentRequest& request);
  absl::Status Reply(const absl::Status& status, pb::AgentReply reply = {}, int fd = -1);
  static absl::Status EndIfStuck(const absl::Status& frozen);
  absl::StatusOr<ScopedFd> Attach(const pb::AgentRequest& request);
  absl::Status Freeze(const pb::AgentRequest& request);
  absl::Status Capture(const pb::AgentRequest& request, const InjectionPlan& plan);
  absl::Status ThawAndReport(int session_cpu);
  absl::Status ConfirmLasting();
  absl::Status Thaw();

  const int socket_;
  std::unique_ptr<ProcessHandle> target_;
  std::optional<FrozenProcess> frozen_;
  std::optional<LastingState> lasting_;  // none: a bare freeze
  std::set<std::string> inherited_pipes_;
  pb::Image image_;                      // what the freeze found, if captured_ is OK
  absl::Status captured_;
  int64_t frozen_us_ = 0;
  bool gave_up_ = false;
  const CpuPlacement placement_;
  RemoteAddr scratch_;
  bool deleted_files_ = false;
};

int Agent::Run() {
  for (;;) {
    pb::AgentRequest request;
    if (frozen_) StayAwake(socket_, kStayAwakeUs);
    auto outcome =
        ReceiveMessage(socket_, frozen_ ? kFrozenPatienceMs : -1, &request, nullptr);
    if (outcome.ok() && *outcome == ReceiveOutcome::kTimeout) {
      // The daemon hangs. The target must not hang with it.
      gave_up_ = true;
      (void)Thaw();
      continue;
    }
    if (!outcome.ok() || *outcome == ReceiveOutcome::kClosed || !Handle(request).ok()) break;
  }
  (void)Thaw();
  return 0;
}

// An error means that the agent has to end.
absl::Status Agent::Handle(const pb::AgentRequest& request) {
  switch (request.operation()) {
    case pb::AgentRequest::ATTACH: {
      auto uffd = Attach(request);
      INCR_RETURN_IF_ERROR(Reply(uffd.status(), {}, uffd.ok() ? uffd->get() : -1));
      return EndIfStuck(uffd.status());
    }
    case pb::AgentRequest::FREEZE:
      return Freeze(request);
    case pb::AgentRequest::KEEP_FROZEN:
      return absl::OkStatus();
    case pb::AgentRequest::THAW:
      return ThawAndReport(request.cpu());
    default:
      return Reply(absl::InvalidArgumentError("unknown agent operation"));
  }
}

// A thread that would not stop cannot be detached either, until its tracer is gone.
absl::Status Agent::EndIfStuck(const absl::Status& frozen) {
  return absl::IsDeadlineExceeded(frozen) ? frozen : absl::OkStatus();
}

absl::Status Agent::Reply(const absl::Status& status, pb::AgentReply reply, int fd) {
  reply.set_code(static_cast<uint32_t>(status.code()));
  reply.set_message(std::string(status.message()));
  return SendMessage(socket_, reply, fd);
}

// The result holds no descriptor when no features were asked for.
absl::StatusOr<ScopedFd> Agent::Attach(const pb::AgentRequest& request) {
  INCR_ASSIGN_OR_RETURN(ProcessHandle target, ProcessHandle::Open(request.pid()));
  if (target.start_time() != request.start_time()) {
    return absl::NotFoundError(absl::StrCat("process ", request.pid(), " has exited"));
  }
  target_ = std::make_unique<ProcessHandle>(std::move(target));
  if (request.uffd_features() == 0) return ScopedFd();
  INCR_ASSIGN_OR_RETURN(FrozenProcess frozen, FrozenProcess::Freeze(*target_));
  INCR_ASSIGN_OR_RETURN(ScopedFd uffd, CreateRemoteUserfaultfd(frozen, request.uffd_features()));
  INCR_RETURN_IF_ERROR(std::move(frozen).Thaw());
  return uffd;
}

absl::Status Agent::Freeze(const pb::AgentRequest& request) {
  if (target_ == nullptr || frozen_) {
    return Reply(absl::FailedPreconditionError("freeze before attach, or twice"));
  }
  lasting_.reset();
  image_ = pb::Image();
  captured_ = absl::OkStatus();
  scratch_ = RemoteAddr();
  // All that can be done before the target stands still is done before, and on the CPU of the session, which waits:
  // the others may be the target's.
  placement_.OnlyOn(request.cpu());
  InjectionPlan plan{.scratch = RemoteAddr(request.scratch())};
  if (!request.bare()) {
    deleted_files_ = request.deleted_files();
    auto lasting = CaptureLasting(*target_, deleted_files_);
    if (!lasting.ok()) return Reply(lasting.status());
    lasting_ = *std::move(lasting);
    if (auto found = FindSyscallInstruction(*target_); found.ok()) plan.syscall = *found;
  }
  // From here on this process and the session both work, and the target leaves a CPU idle.
  const int target_cpu = LastCpuOf(*target_);
  if (target_cpu != request.cpu()) placement_.OnlyOn(target_cpu);
  placement_.NotOn(request.cpu());  // It stays there, unless somebody else takes that CPU away.
  auto frozen = FrozenProcess::Freeze(*target_);
  if (!frozen.ok()) {
    INCR_RETURN_IF_ERROR(Reply(frozen.status()));
    return EndIfStuck(frozen.status());
  }
  frozen_.emplace(*std::move(frozen));
  // From here on the session reads the maps, scans and copies while this process reads the rest.
  if (!request.settled()) INCR_RETURN_IF_ERROR(Reply(absl::OkStatus()));
  if (request.bare()) return absl::OkStatus();
  // It looks at files, and a dead or dependent file system (a FUSE server that waits for the target)
  // may never answer. Every thread rests where our death lets it go on.
  ::alarm(kFrozenPatienceMs / 1000 + 1);
  captured_ = Capture(request, plan);
  ::alarm(0);
  return request.settled() ? Reply(absl::OkStatus()) : absl::OkStatus();
}

// The injected calls first: mmap, brk and munmap want the mmap lock, which the session's scan holds
// most of the time once it has begun.
absl::Status Agent::Capture(const pb::AgentRequest& request, const InjectionPlan& plan) {
  INCR_ASSIGN_OR_RETURN(FrozenState state, CaptureOuterState(*frozen_));
  INCR_RETURN_IF_ERROR(CaptureInjectedState(*frozen_, plan, &state));
  scratch_ = state.scratch;
  if (!request.settled()) {
    pb::AgentReply over;
    over.set_calls_over(true);
    INCR_RETURN_IF_ERROR(Reply(absl::OkStatus(), std::move(over)));
    ::sched_yield();  // The session may wait for it on this CPU.
  }
  pb::Process files;
  INCR_RETURN_IF_ERROR(CaptureFiles(*target_, {lasting_->fs, &inherited_pipes_},
                                    request.allow_unsupported(), &files, &image_));
  INCR_RETURN_IF_ERROR(CapturePendingSignals(*frozen_, &state));
  pb::Process* process = image_.add_processes();
  INCR_RETURN_IF_ERROR(CaptureProcess(*target_, state, *lasting_, request.allow_unsupported(),
                                      process, &image_));
  process->MergeFrom(files);
  return absl::OkStatus();
}

// What need not happen in the freeze happens when the target is running again.
absl::Status Agent::ThawAndReport(int session_cpu) {
  pb::AgentReply reply;
  reply.set_held(frozen_.has_value());
  placement_.OnlyOn(session_cpu);  // Before the target wants its own again: it might not let us go.
  absl::Status status = Thaw();
  if (gave_up_) {
    status = absl::DeadlineExceededError(
        absl::StrCat("the target was thawed because the checkpoint said nothing for ",
                     kFrozenPatienceMs, " ms"));
    gave_up_ = false;
  }
  if (status.ok()) status = captured_;
  if (status.ok() && lasting_) status = ConfirmLasting();
  if (status.ok() && lasting_) reply.set_image(image_.SerializeAsString());
  reply.set_frozen_us(frozen_us_);
  reply.set_scratch(scratch_.value());
  return Reply(status, std::move(reply));
}

absl::Status Agent::ConfirmLasting() {
  INCR_ASSIGN_OR_RETURN(const LastingState now, CaptureLasting(*target_, deleted_files_));
  if (now == *lasting_) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(
      "process ", target_->pid(), " changed its limits, ids or attributes during the checkpoint"));
}

absl::Status Agent::Thaw() {
  if (!frozen_) return absl::OkStatus();
  const int64_t since_us = frozen_->since_us();
  absl::Status status = (*std::move(frozen_)).Thaw();
  frozen_.reset();
  frozen_us_ = MonotonicMicros() - since_us;
  return status;
}

}  // namespace

int RunAgent(int socket_fd) {
  ScopedFd socket(socket_fd);
  ::fcntl(socket_fd, F_SETFD, FD_CLOEXEC);
  ::prctl(PR_SET_NAME, "incr-ckpt-agent");
  // A terminal's or a service manager's signals are meant for the daemon; the agent ends
  // when the socket does, after it has put the target right.
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(signal, SIG_IGN);
  ::signal(SIGALRM, SIG_DFL);  // ends us; see Freeze()
  // On a busy machine the target stands still for as long as this process waits for a CPU.
  (void)::setpriority(PRIO_PROCESS, 0, kUrgentNice);
  ::prctl(PR_SET_TIMERSLACK, 1);  // For short waits (Backoff).
  return Agent(socket_fd).Run();
}

}  // namespace incr
