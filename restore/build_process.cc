#include "restore/build_process.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

struct KernelAction {  // rt_sigaction's own layout on x86-64
  uint64_t handler, flags, restorer, mask;
};
constexpr uint64_t kSignalSetBytes = 8;

absl::Status RestoreSignalActions(Workbench& bench, const pb::Process& process) {
  std::string bytes;
  for (const pb::SignalAction& saved : process.signal_actions()) {
    const KernelAction action{saved.handler(), saved.flags(), saved.restorer(), saved.mask()};
    bytes.append(reinterpret_cast<const char*>(&action), sizeof action);
  }
  INCR_RETURN_IF_ERROR(bench.Put(bytes));
  for (int i = 0; i < process.signal_actions_size(); ++i) {
    const uint32_t signal = process.signal_actions(i).signal();
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    INCR_RETURN_IF_ERROR(bench.leader()
                             .Call(absl::StrCat("rt_sigaction(", signal, ")"), SYS_rt_sigaction,
                                   signal, bench.arguments().value() + i * sizeof(KernelAction), 0,
                                   kSignalSetBytes)
                             .status());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RestoreJobControl(Workbench& bench, const pb::Process& process) {
  if (process.sid() == process.pid()) return bench.leader().Call("setsid", SYS_setsid).status();
  if (process.pgid() != process.pid()) return absl::OkStatus();
  return bench.leader().Call("setpgid", SYS_setpgid, 0, 0).status();
}

absl::Status RaiseDescriptorLimit(pid_t pid) {
  rlimit limit;
  if (::prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) != 0) {
    return ErrnoStatus(absl::StrCat("prlimit(", pid, ", NOFILE)"));
  }
  limit.rlim_cur = limit.rlim_max;
  if (::prlimit(pid, RLIMIT_NOFILE, &limit, nullptr) != 0) {
    return ErrnoStatus(absl::StrCat("prlimit(", pid, ", NOFILE)"));
  }
  return absl::OkStatus();
}

absl::Status RestoreMemoryAttributes(Workbench& bench, const pb::Process& process,
                                     pb::Image* image) {
  if (process.thp_disabled()) {
    INCR_RETURN_IF_ERROR(bench.leader()
                             .Call("prctl(PR_SET_THP_DISABLE)", SYS_prctl, PR_SET_THP_DISABLE, 1, 0,
                                   0, 0)
                             .status());
  }
  for (int command : {MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED,
                      MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
                      MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE,
                      MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ}) {
    // A kernel without it gave the program nothing to lose.
    INCR_RETURN_IF_ERROR(
        bench.leader().Raw(SYS_membarrier, {static_cast<uint64_t>(command), 0, 0}).status());
  }
  const auto write = [&](absl::string_view name, const std::string& value) {
    auto fd = OpenFile(bench.child().ProcPath(name), O_WRONLY);
    absl::Status status = fd.status();
    if (fd.ok()) status = WriteExactly(fd->get(), value.data(), value.size(), name);
    if (!status.ok()) {
      image->add_warnings(absl::StrCat(name, " is not restored: ", status.message()));
    }
  };
  if (process.coredump_filter() != 0) {
    write("coredump_filter", absl::StrFormat("%#x", process.coredump_filter()));
  }
  write("oom_score_adj", absl::StrCat(process.oom_score_adj()));
  return absl::OkStatus();
}

absl::Status RestoreAttributes(Workbench& bench, const pb::Process& process, pb::Image* image) {
  RemoteSyscalls& leader = bench.leader();
  INCR_RETURN_IF_ERROR(
      leader.Call("personality", SYS_personality, process.personality()).status());
  uint32_t dumpable = process.dumpable();
  if (dumpable > 1) {
    image->add_warnings("core dumps for root only (suid_dumpable 2) come back as none at all");
    dumpable = 0;
  }
  INCR_RETURN_IF_ERROR(
      leader.Call("prctl(PR_SET_DUMPABLE)", SYS_prctl, PR_SET_DUMPABLE, dumpable, 0, 0, 0)
          .status());
  if (process.no_new_privs()) {
    INCR_RETURN_IF_ERROR(
        leader.Call("prctl(PR_SET_NO_NEW_PRIVS)", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            .status());
  }
  INCR_RETURN_IF_ERROR(leader
                           .Call("prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl,
                                 PR_SET_CHILD_SUBREAPER, process.child_subreaper() ? 1 : 0, 0, 0, 0)
                           .status());
  return RestoreSignalActions(bench, process);
}

absl::Status RestorePendingAndTimers(Workbench& bench, const pb::Process& process) {
  for (const std::string& info : process.pending_signals()) {
    int signal;
    memcpy(&signal, info.data(), sizeof signal);
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    INCR_RETURN_IF_ERROR(bench.Put(info));
    INCR_RETURN_IF_ERROR(bench.leader()
                             .Call(absl::StrCat("rt_sigqueueinfo(signal ", signal, ")"),
                                   SYS_rt_sigqueueinfo, process.pid(), signal,
                                   bench.arguments().value())
                             .status());
  }
  for (const pb::IntervalTimer& timer : process.interval_timers()) {
    // An ITIMER_REAL that has expired rests, with an interval but no value, until its SIGALRM is
    // taken; that signal is among the pending ones.
    int64_t value_us = timer.value_us();
    if (value_us == 0 && timer.which() == ITIMER_REAL) value_us = timer.interval_us();
    if (value_us == 0) continue;
    const itimerval value{
        {timer.interval_us() / 1'000'000, timer.interval_us() % 1'000'000},
        {value_us / 1'000'000, value_us % 1'000'000},
    };
    INCR_RETURN_IF_ERROR(bench.Put(&value, sizeof value));
    INCR_RETURN_IF_ERROR(bench.leader()
                             .Call(absl::StrCat("setitimer(", timer.which(), ")"), SYS_setitimer,
                                   timer.which(), bench.arguments().value(), 0)
                             .status());
  }
  return absl::OkStatus();
}

absl::Status RestoreLimits(const pb::Process& process, pb::Image* image) {
  const pid_t pid = static_cast<pid_t>(process.pid());
  for (const pb::ResourceLimit& saved : process.limits()) {
    const auto resource = static_cast<__rlimit_resource>(saved.resource());
    const std::string what = absl::StrCat("prlimit(", pid, ", ", saved.resource(), ")");
    rlimit limit{saved.soft(), saved.hard()};
    if (::prlimit(pid, resource, &limit, nullptr) == 0) continue;
    if (errno != EPERM) return ErrnoStatus(what);
    rlimit ours;
    if (::prlimit(pid, resource, nullptr, &ours) != 0) return ErrnoStatus(what);
    limit.rlim_max = std::min(limit.rlim_max, ours.rlim_max);
    limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
    if (::prlimit(pid, resource, &limit, nullptr) != 0) return ErrnoStatus(what);
    image->add_warnings(absl::StrCat("resource limit ", saved.resource(), " was ", saved.hard(),
                                     " and comes back as ", limit.rlim_max,
                                     ": raising it needs CAP_SYS_RESOURCE"));
  }
  return absl::OkStatus();
}

}  // namespace incr
