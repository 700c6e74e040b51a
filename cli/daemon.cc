#include "cli/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "cli/api.h"
#include "cli/epoch_rows.h"
#include "cli/gc_keeper.h"
#include "cli/http_server.h"
#include "cli/import_reply.h"
#include "cli/job_table.h"
#include "cli/json.h"
#include "cli/unix_socket.h"
#include "cli/version.h"

namespace incr {
namespace {

constexpr off_t kMaxLogBytes = 1 << 20;

void Log(const std::string& line) {
  const std::string text = absl::StrCat(FormatTime(WallMicros()), " ", line, "\n");
  (void)!::write(STDERR_FILENO, text.data(), text.size());
}

// Signals that mean "go": taken by a thread of their own with sigwait, so that no handler runs and
// an agent that we spawn finds them untouched by one.
class ShutdownSignals {
 public:
  ShutdownSignals() {
    sigemptyset(&signals_);
    for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals_, signal);
    ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
  }
  ~ShutdownSignals() { StopDelivering(); }
  void Deliver(std::function<void()> shut_down) {
    thread_ = std::thread([this, shut_down = std::move(shut_down)] {
      int signal = 0;
      (void)::sigwait(&signals_, &signal);
      if (!over_) shut_down();
    });
  }
  // Before what `shut_down` uses goes.
  void StopDelivering() {
    if (!thread_.joinable()) return;
    over_ = true;
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }

 private:
  sigset_t signals_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

absl::Status RedirectStderrToLog(const std::string& store) {
  const std::string path = absl::StrCat(store, "/", kDaemonLog);
  INCR_ASSIGN_OR_RETURN(ScopedFd log, OpenFile(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600));
  struct stat stat;
  if (::fstat(log.get(), &stat) == 0 && stat.st_size > kMaxLogBytes) {
    (void)std::rename(path.c_str(), absl::StrCat(path, ".old").c_str());
    INCR_ASSIGN_OR_RETURN(log, OpenFile(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600));
  }
  if (::dup2(log.get(), STDERR_FILENO) < 0) return ErrnoStatus("dup2(daemon.log)");
  return absl::OkStatus();
}

// The index of a large store and the descriptors of many jobs exceed the usual 1024.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

bool IsLocked(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && absl::StrContains(status.message(), "locked");
}

// Its numbers would come between the epochs that its session is taking.
absl::Status CheckNotTracked(JobTable& jobs, const std::string& name) {
  const pb::StatusReply status = jobs.Status();
  for (const pb::JobStatus& job : status.jobs()) {
    if (job.job() != name) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", name, " is being tracked: give another name with --job, or stop it first"));
  }
  return absl::OkStatus();
}

// Whether a process has ended, whoever has its number since.
class Liveness {
 public:
  explicit Liveness(pid_t pid) : pidfd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}
  bool ended() const {
    struct pollfd end = {pidfd_.get(), POLLIN, 0};
    return !pidfd_.ok() || ::poll(&end, 1, 0) > 0;
  }

 private:
  const ScopedFd pidfd_;
};

// `caller` is vouched for by the kernel. A pipe may give nothing for ever: neither a caller that is gone nor a daemon
// that is to go (`stopped`) waits for it.
absl::StatusOr<pb::ImportReply> Import(Store* store, SessionFactory* sessions, JobTable& jobs,
                                       const pb::ImportRequest& request, pid_t caller,
                                       const std::atomic<bool>& stopped) {
  if (static_cast<pid_t>(request.holder_pid()) != caller) {
    return absl::PermissionDeniedError("only the process that has the file open may have it imported");
  }
  const Liveness holder(caller);
  INCR_ASSIGN_OR_RETURN(const ScopedFd file, sessions->TakeDescriptor(caller, request.holder_fd()));
  return ImportInto(store, file.get(), request, nullptr,
                    [&](const std::string& job) { return CheckNotTracked(jobs, job); },
                    [&] { return stopped || holder.ended(); });
}

absl::Status Serve(const DaemonOptions& options, const DaemonDependencies& dependencies,
                   ScopedFd ready) {
  ShutdownSignals signals;
  RaiseDescriptorLimit();
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, dependencies.open_store(options.store));
  INCR_ASSIGN_OR_RETURN(SocketAddress address, SocketAddress::In(options.store));
  INCR_ASSIGN_OR_RETURN(ScopedFd socket, ListenOn(address));
  INCR_RETURN_IF_ERROR(RedirectStderrToLog(options.store));

  std::unique_ptr<SessionFactory> sessions = dependencies.make_sessions(store.get());
  JobTable jobs(sessions.get(), &Log);
  GcKeeper gc(store.get(), [&] { return jobs.ForGc(); }, &Log);
  Api api(&jobs, store.get(), options.store, options.settings, &gc);
  std::atomic<bool> stopped{false};
  api.set_importer([&](const pb::ImportRequest& request, pid_t caller) {
    return Import(store.get(), sessions.get(), jobs, request, caller, stopped);
  });
  INCR_ASSIGN_OR_RETURN(
      std::unique_ptr<HttpServer> server,
      HttpServer::Serve(std::move(socket), [&](const HttpRequest& r) { return api.Handle(r); }));
  signals.Deliver([&] {
    stopped = true;
    jobs.RequestShutdown();
  });
  Log(absl::StrCat("daemon ", ::getpid(), " (", kVersion, ") serves ", options.store));
  (void)WriteExactly(ready.get(), kReadyLine, sizeof kReadyLine - 1, "ready");
  ready.reset();

  jobs.RunUntilIdle(absl::Seconds(options.first_grace_s), absl::Seconds(options.grace_s));
  gc.Stop();
  // While we still hold the store's lock: a successor's socket is never taken for ours.
  (void)::unlink(address.path().c_str());
  server.reset();  // Waits for what is being answered: signals may still be needed.
  signals.StopDelivering();
  Log(absl::StrCat("daemon ", ::getpid(), " exits"));
  return absl::OkStatus();
}

}  // namespace

int RunDaemon(const DaemonOptions& options, const DaemonDependencies& dependencies) {
  // Its own copy, so that it can still speak after Serve has closed the other.
  ScopedFd answer(::fcntl(options.ready_fd, F_DUPFD_CLOEXEC, 3));
  ::fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC);
  const absl::Status status = Serve(options, dependencies, ScopedFd(options.ready_fd));
  if (status.ok()) return 0;
  const std::string line = absl::StrCat(IsLocked(status) ? kLockedPrefix : "",
                                        CleanText(status.message()), "\n");
  (void)WriteExactly(answer.get(), line.data(), line.size(), "ready");
  return 1;
}

}  // namespace incr
