#include "checkpoint/capture_process.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/file_identity.h"
#include "checkpoint/interrupted_call.h"
#include "checkpoint/text.h"
#include "checkpoint/unsupported.h"
#include "proto/image_check.h"

namespace incr {
namespace {

constexpr size_t kXfeaturesOffset = 464;  // XCR0 in the software bytes of an xsave area

// ---- Threads ----

bool AnyPasses(const std::vector<std::string>& pending, uint64_t mask) {
  for (const std::string& info : pending) {
    int signal = 0;
    if (info.size() >= sizeof signal) memcpy(&signal, info.data(), sizeof signal);
    if (signal >= 1 && signal <= 64 && ((mask >> (signal - 1)) & 1) == 0) return true;
  }
  return false;
}

void CaptureThread(const ThreadState& state, const SharedState& shared, const RemoteMemory& memory,
                   pb::Thread* thread, pb::Image* image) {
  const bool signal_waits = AnyPasses(state.pending_signals, state.signal_mask) ||
                            AnyPasses(shared.pending_signals, state.signal_mask);
  const ResumedRegisters resumed =
      ReadyToRun(state.registers, signal_waits, [&](uint64_t address, void* to, size_t size) {
        return memory.Read(RemoteAddr(address), to, size).ok();
      });
  if (resumed.call_lost) {
    image->add_warnings(absl::StrCat("thread ", state.tid,
                                     ": the system call it sleeps in will fail with EINTR"));
  }
  thread->set_tid(state.tid);
  thread->set_comm(PrintableUtf8(state.comm));
  thread->set_registers(&resumed.registers, sizeof resumed.registers);
  if (resumed.registers.rip + 2 == state.registers.rip) {
    thread->set_call_result(static_cast<int64_t>(state.registers.rax));
  }
  thread->set_xstate(state.xstate);
  thread->set_signal_mask(state.signal_mask);
  for (const std::string& info : state.pending_signals) thread->add_pending_signals(info);
  thread->set_altstack_sp(state.altstack_sp);
  thread->set_altstack_size(state.altstack_size);
  thread->set_altstack_flags(state.altstack_flags);
  thread->set_clear_child_tid(state.clear_child_tid);
  thread->set_robust_list(state.robust_list);
  thread->set_robust_list_size(state.robust_list_size);
  thread->set_rseq(state.rseq);
  thread->set_rseq_size(state.rseq_size);
  thread->set_rseq_signature(state.rseq_signature);
  thread->set_nice(state.nice);
  thread->set_sched_policy(state.sched_policy);
  thread->set_sched_priority(state.sched_priority);
  thread->set_cpu_affinity(state.cpu_affinity);
  thread->set_parent_death_signal(state.parent_death_signal);
  thread->set_timer_slack_ns(state.timer_slack_ns);
}

// ---- The process ----

void CaptureSignalsAndTimers(const SharedState& shared, pb::Process* process) {
  for (int signal = 1; signal <= 64; ++signal) {
    const KernelSigaction& action = shared.actions[signal - 1];
    pb::SignalAction* saved = process->add_signal_actions();
    saved->set_signal(signal);
    saved->set_handler(action.handler);
    saved->set_flags(action.flags);
    saved->set_restorer(action.restorer);
    saved->set_mask(action.mask);
  }
  for (const std::string& info : shared.pending_signals) process->add_pending_signals(info);
  for (int which = 0; which < 3; ++which) {
    pb::IntervalTimer* timer = process->add_interval_timers();
    timer->set_which(which);
    timer->set_value_us(shared.interval_timers[which].value_us);
    timer->set_interval_us(shared.interval_timers[which].interval_us);
  }
}

// /proc/<pid>/limits and not prlimit(): that needs CAP_SYS_RESOURCE for another uid's task.
absl::Status CaptureLimits(const ProcessHandle& target, pb::Process* process) {
  static constexpr struct {
    const char* name;
    int resource;
  } kLimits[] = {
      {"Max cpu time", RLIMIT_CPU},
      {"Max file size", RLIMIT_FSIZE},
      {"Max data size", RLIMIT_DATA},
      {"Max stack size", RLIMIT_STACK},
      {"Max core file size", RLIMIT_CORE},
      {"Max resident set", RLIMIT_RSS},
      {"Max processes", RLIMIT_NPROC},
      {"Max open files", RLIMIT_NOFILE},
      {"Max locked memory", RLIMIT_MEMLOCK},
      {"Max address space", RLIMIT_AS},
      {"Max file locks", RLIMIT_LOCKS},
      {"Max pending signals", RLIMIT_SIGPENDING},
      {"Max msgqueue size", RLIMIT_MSGQUEUE},
      {"Max nice priority", RLIMIT_NICE},
      {"Max realtime priority", RLIMIT_RTPRIO},
      {"Max realtime timeout", RLIMIT_RTTIME},
  };
  const std::string path = target.ProcPath("limits");
  INCR_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(path));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    for (const auto& known : kLimits) {
      absl::string_view rest = line;
      if (!absl::ConsumePrefix(&rest, known.name) || !absl::StartsWith(rest, " ")) continue;
      std::vector<absl::string_view> fields = absl::StrSplit(rest, ' ', absl::SkipEmpty());
      uint64_t values[2];
      for (int i = 0; i < 2; ++i) {
        if (fields.size() > i && fields[i] == "unlimited") {
          values[i] = RLIM_INFINITY;
        } else if (fields.size() <= i || !absl::SimpleAtoi(fields[i], &values[i])) {
          return absl::InternalError(absl::StrCat(path, ": cannot read \"", line, "\""));
        }
      }
      pb::ResourceLimit* limit = process->add_limits();
      limit->set_resource(known.resource);
      limit->set_soft(values[0]);
      limit->set_hard(values[1]);
    }
  }
  return absl::OkStatus();
}

absl::Status CaptureLayout(const ProcessHandle& target, const ProcessFacts& facts,
                           pb::MemoryLayout* layout) {
  layout->set_start_code(facts.start_code);
  layout->set_end_code(facts.end_code);
  layout->set_start_data(facts.start_data);
  layout->set_end_data(facts.end_data);
  layout->set_start_brk(facts.start_brk);
  layout->set_start_stack(facts.start_stack);
  layout->set_arg_start(facts.arg_start);
  layout->set_arg_end(facts.arg_end);
  layout->set_env_start(facts.env_start);
  layout->set_env_end(facts.env_end);
  INCR_ASSIGN_OR_RETURN(*layout->mutable_auxv(), ReadWholeFile(target.ProcPath("auxv")));
  return absl::OkStatus();
}

absl::Status CaptureExe(const ProcessHandle& target, bool deleted_files, pb::FileIdentity* exe) {
  const std::string link = target.ProcPath("exe");
  INCR_ASSIGN_OR_RETURN(std::string path, ReadLink(link));
  pb::FileIdentity running;
  if (!IdentityAt(link, path, &running)) return ErrnoStatus(absl::StrCat("statx(", link, ")"));
  if (!IdentityAt(path, path, exe) || !SameFile(*exe, running)) {
    if (deleted_files) {
      *exe = running;
      exe->set_path(std::string(absl::StripSuffix(path, " (deleted)")));
      return absl::OkStatus();
    }
    return absl::UnimplementedError(
        absl::StrCat("pid ", target.pid(), " cannot be restored: its program file ", path,
                     " has been deleted or replaced"));
  }
  return absl::OkStatus();
}

absl::Status CaptureIdentity(const ProcessHandle& target, const ProcessFacts& facts,
                             pb::Process* process) {
  process->set_pid(target.pid());
  process->set_ppid(facts.ppid);
  process->set_pgid(facts.pgid);
  process->set_sid(facts.sid);
  process->set_uid(facts.uid);
  process->set_gid(facts.gid);
  process->set_comm(PrintableUtf8(facts.comm));
  process->set_no_new_privs(facts.no_new_privs);
  INCR_ASSIGN_OR_RETURN(std::string arguments, ReadWholeFile(target.ProcPath("cmdline")));
  if (arguments.size() > 4096) arguments.resize(4096);  // For people only.
  for (char& c : arguments) {
    // The schema's strings are UTF-8; arguments may be any bytes.
    if (c == '\0') c = ' ';
    if (static_cast<unsigned char>(c) < 32 || static_cast<unsigned char>(c) > 126) c = '?';
  }
  process->set_command_line(std::string(absl::StripAsciiWhitespace(arguments)));
  return absl::OkStatus();
}

absl::Status CaptureMemoryAttributes(const ProcessHandle& target, absl::string_view status_text,
                                     pb::Process* process) {
  process->set_thp_disabled(StatusField(status_text, "THP_enabled") == "0");
  // Hexadecimal, without 0x; absent where the kernel writes no core files.
  auto filter = ReadWholeFile(target.ProcPath("coredump_filter"));
  uint32_t bits = 0;
  if (filter.ok() && absl::SimpleHexAtoi(absl::StripAsciiWhitespace(*filter), &bits)) {
    process->set_coredump_filter(bits);
  }
  INCR_ASSIGN_OR_RETURN(std::string score, ReadWholeFile(target.ProcPath("oom_score_adj")));
  INCR_ASSIGN_OR_RETURN(std::string personality, ReadWholeFile(target.ProcPath("personality")));
  uint32_t persona = 0;
  if (!absl::SimpleHexAtoi(absl::StripAsciiWhitespace(personality), &persona)) {
    return absl::InternalError(absl::StrCat(target.ProcPath("personality"), ": ", personality));
  }
  process->set_personality(persona);
  int32_t adjustment = 0;
  (void)absl::SimpleAtoi(score, &adjustment);
  process->set_oom_score_adj(adjustment);
  return absl::OkStatus();
}

void CaptureXfeatures(const FrozenState& state, pb::Machine* machine) {
  uint64_t xfeatures = 0;
  const std::string& xstate = state.threads[0].xstate;
  if (xstate.size() >= kXfeaturesOffset + sizeof xfeatures) {
    memcpy(&xfeatures, xstate.data() + kXfeaturesOffset, sizeof xfeatures);
  }
  machine->set_xfeatures(xfeatures);
}

}  // namespace

void RecordGroupStop(pb::Process* process) {
  siginfo_t info{};
  info.si_signo = SIGSTOP;
  info.si_code = SI_KERNEL;
  process->add_pending_signals(&info, sizeof info);
}

bool LastingState::operator==(const LastingState& other) const {
  const auto without_names = [](pb::Image image) {
    image.mutable_processes(0)->clear_comm();
    image.mutable_processes(0)->clear_command_line();
    return image.SerializeAsString();
  };
  const auto same_root = fs.root == other.fs.root && fs.root_stat.st_ino == other.fs.root_stat.st_ino &&
                         fs.root_stat.st_dev == other.fs.root_stat.st_dev;
  return same_root && fs.umask == other.fs.umask && fs.same_network == other.fs.same_network &&
         unsupported == other.unsupported && without_names(image) == without_names(other.image);
}

absl::StatusOr<LastingState> CaptureLasting(const ProcessHandle& target, bool deleted_files) {
  LastingState lasting;
  pb::Process* process = lasting.image.add_processes();
  INCR_ASSIGN_OR_RETURN(ProcessFacts facts, ReadProcessFacts(target));
  INCR_ASSIGN_OR_RETURN(std::string status, ReadWholeFile(target.ProcPath("status")));
  INCR_RETURN_IF_ERROR(FindLastingUnsupported(target, facts, status, &lasting.image,
                                              &lasting.unsupported));
  if (facts.thread_count > 1) {
    INCR_RETURN_IF_ERROR(FindThreadsApart(target, status, &lasting.unsupported));
  }
  INCR_RETURN_IF_ERROR(CaptureMemoryAttributes(target, status, process));
  INCR_RETURN_IF_ERROR(CaptureIdentity(target, facts, process));
  INCR_RETURN_IF_ERROR(CaptureExe(target, deleted_files, process->mutable_exe()));
  INCR_RETURN_IF_ERROR(CaptureLayout(target, facts, process->mutable_layout()));
  INCR_RETURN_IF_ERROR(CaptureLimits(target, process));
  INCR_ASSIGN_OR_RETURN(lasting.fs, ReadFsContext(target));
  utsname names;
  if (::uname(&names) == 0) lasting.image.mutable_machine()->set_kernel_release(names.release);
  return lasting;
}

absl::Status CaptureProcess(const ProcessHandle& target, const FrozenState& state,
                            const LastingState& lasting, bool allow_unsupported,
                            pb::Process* process, pb::Image* image) {
  INCR_CHECK(!state.threads.empty());
  *process = lasting.image.processes(0);
  *image->mutable_machine() = lasting.image.machine();
  image->mutable_warnings()->MergeFrom(lasting.image.warnings());
  image->set_version(kImageVersion);
  std::vector<std::string> unsupported = lasting.unsupported;
  INCR_RETURN_IF_ERROR(FindMomentaryUnsupported(target, state, &unsupported));
  INCR_RETURN_IF_ERROR(
      RefuseUnsupported(target, process->comm(), unsupported, allow_unsupported, image));
  CaptureXfeatures(state, image->mutable_machine());
  process->mutable_layout()->set_brk(state.shared.brk);
  CaptureSignalsAndTimers(state.shared, process);
  process->set_child_subreaper(state.shared.child_subreaper);
  process->set_dumpable(state.shared.dumpable);
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(target, /*writable=*/false));
  for (const ThreadState& thread : state.threads) {
    CaptureThread(thread, state.shared, memory, process->add_threads(), image);
  }
  return absl::OkStatus();
}

}  // namespace incr
