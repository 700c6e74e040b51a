#include "process/process_handle.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr uint64_t kPfKthread = 0x00200000;  // PF_KTHREAD in stat's flags

// /proc/<pid>/stat: the name stands in parentheses and may itself hold any character.
struct Stat {
  std::string comm;
  std::vector<absl::string_view> fields;  // fields[n] is field n + 1 of proc(5); [1] is empty
  char state() const { return fields[2].empty() ? '?' : fields[2][0]; }
  uint64_t number(size_t field) const {
    uint64_t value = 0;
    int64_t negative = 0;
    if (absl::SimpleAtoi(fields[field - 1], &value)) return value;
    return absl::SimpleAtoi(fields[field - 1], &negative) ? static_cast<uint64_t>(negative) : 0;
  }
};

absl::StatusOr<Stat> ParseStat(absl::string_view text, absl::string_view path) {
  const size_t open = text.find('(');
  const size_t close = text.rfind(')');
  if (open == absl::string_view::npos || close == absl::string_view::npos || close < open) {
    return absl::InternalError(absl::StrCat(path, ": no name in parentheses"));
  }
  Stat stat;
  stat.comm = std::string(text.substr(open + 1, close - open - 1));
  stat.fields = {text.substr(0, open), ""};
  for (absl::string_view field :
       absl::StrSplit(text.substr(close + 1), absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    stat.fields.push_back(field);
  }
  if (stat.fields.size() < 52) {
    return absl::InternalError(absl::StrCat(path, ": ", stat.fields.size(), " fields, wanted 52"));
  }
  return stat;
}

absl::Status NoSuchProcess(pid_t pid) {
  return absl::NotFoundError(absl::StrCat("no process with pid ", pid));
}

// A file of /proc/<pid>, or kNotFound in plain words once the process is gone.
absl::StatusOr<std::string> ReadProc(pid_t pid, absl::string_view name) {
  auto text = ReadWholeFile(absl::StrCat("/proc/", pid, "/", name));
  if (absl::IsNotFound(text.status())) return NoSuchProcess(pid);
  return text;
}

// "Uid:\t0\t0\t0\t0" -> the text after the colon; empty if there is no such line.
absl::string_view StatusLine(absl::string_view status, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(status, '\n')) {
    if (absl::ConsumePrefix(&line, key) && absl::ConsumePrefix(&line, ":")) return line;
  }
  return "";
}

std::vector<uint32_t> Numbers(absl::string_view text) {
  std::vector<uint32_t> numbers;
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar("\t "), absl::SkipEmpty())) {
    uint32_t value = 0;
    if (!absl::SimpleAtoi(word, &value)) value = 0;
    numbers.push_back(value);
  }
  return numbers;
}

uint32_t Number(absl::string_view text) {
  const std::vector<uint32_t> numbers = Numbers(text);
  return numbers.empty() ? 0 : numbers[0];
}

// Parent of `pid`, 0 if it has none that we can see.
pid_t ParentOf(pid_t pid) {
  const auto text = ReadProc(pid, "stat");
  if (!text.ok()) return 0;
  const auto stat = ParseStat(*text, "stat");
  return stat.ok() ? static_cast<pid_t>(stat->number(4)) : 0;
}

bool IsSelfOrAncestor(pid_t pid) {
  for (pid_t p = getpid(); p > 0; p = ParentOf(p)) {
    if (p == pid) return true;
  }
  return false;
}

absl::Status CheckSixtyFourBit(const ProcessHandle& process) {
  const std::string path = process.ProcPath("exe");
  INCR_ASSIGN_OR_RETURN(ScopedFd exe, OpenFile(path, O_RDONLY));
  unsigned char ident[EI_NIDENT];
  INCR_RETURN_IF_ERROR(PreadExactly(exe.get(), ident, sizeof ident, 0, path));
  if (ident[EI_CLASS] != ELFCLASS64) {
    return absl::UnimplementedError(
        absl::StrCat("pid ", process.pid(), " is a 32-bit program, which is not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ProcessHandle> ProcessHandle::Open(pid_t pid) {
  if (pid <= 0) return NoSuchProcess(pid);
  ScopedFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.ok()) {
    const int error = errno;
    if (error == ESRCH) return NoSuchProcess(pid);
    // A thread's id: EINVAL up to 6.14, ENOENT later.
    if (error == EINVAL || error == ENOENT) {
      return absl::NotFoundError(absl::StrCat(pid, " is a thread, not a process"));
    }
    return ErrnoStatus(error, absl::StrCat("pidfd_open(", pid, ")"));
  }
  INCR_ASSIGN_OR_RETURN(const std::string text, ReadProc(pid, "stat"));
  INCR_ASSIGN_OR_RETURN(const Stat stat, ParseStat(text, absl::StrCat("/proc/", pid, "/stat")));
  // What was just read is the pidfd's process only if that one still holds the pid.
  if (syscall(SYS_pidfd_send_signal, pidfd.get(), 0, nullptr, 0) != 0 && errno == ESRCH) {
    return NoSuchProcess(pid);
  }
  return ProcessHandle(pid, std::move(pidfd), stat.number(22));
}

bool ProcessHandle::alive() const {
  pollfd poll_fd{pidfd_.get(), POLLIN, 0};
  int n;
  do {
    n = poll(&poll_fd, 1, 0);
  } while (n < 0 && errno == EINTR);
  return n == 0;
}

std::string ProcessHandle::ProcPath(absl::string_view name) const {
  return absl::StrCat("/proc/", pid_, "/", name);
}

absl::StatusOr<ScopedFd> ProcessHandle::DuplicateFd(int fd) const {
  const int copy = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd_.get(), fd, 0));
  if (copy < 0) return ErrnoStatus(absl::StrCat("pidfd_getfd(", pid_, ", fd ", fd, ")"));
  return ScopedFd(copy);
}

absl::Status ProcessHandle::SendSignal(int signal) const {
  if (syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0) != 0) {
    return ErrnoStatus(absl::StrCat("pidfd_send_signal(", pid_, ", ", signal, ")"));
  }
  return absl::OkStatus();
}

int LastCpuOf(const ProcessHandle& process) {
  const absl::StatusOr<std::string> text = ReadProc(process.pid(), "stat");
  if (!text.ok()) return -1;
  const absl::StatusOr<Stat> stat = ParseStat(*text, process.ProcPath("stat"));
  if (!stat.ok()) return -1;
  const uint64_t policy = stat->number(41);
  const bool shares = policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE;
  return shares ? static_cast<int>(stat->number(39)) : -1;
}

absl::StatusOr<ProcessFacts> ReadProcessFacts(const ProcessHandle& process) {
  INCR_ASSIGN_OR_RETURN(const std::string stat_text, ReadProc(process.pid(), "stat"));
  INCR_ASSIGN_OR_RETURN(const std::string status, ReadProc(process.pid(), "status"));
  INCR_ASSIGN_OR_RETURN(const Stat stat, ParseStat(stat_text, process.ProcPath("stat")));
  if (stat.number(22) != process.start_time()) return NoSuchProcess(process.pid());

  ProcessFacts facts{};
  facts.comm = stat.comm;
  facts.ppid = static_cast<pid_t>(stat.number(4));
  facts.pgid = static_cast<pid_t>(stat.number(5));
  facts.sid = static_cast<pid_t>(stat.number(6));
  facts.kernel_thread = (stat.number(9) & kPfKthread) != 0;
  facts.zombie = stat.state() == 'Z' || stat.state() == 'X';
  facts.start_time = stat.number(22);
  facts.faults = stat.number(10);
  // start_code and end_code read 1 where the kernel hides them.
  facts.start_code = stat.number(26) == 1 ? 0 : stat.number(26);
  facts.end_code = stat.number(27) == 1 ? 0 : stat.number(27);
  facts.start_stack = stat.number(28);
  facts.start_data = stat.number(45);
  facts.end_data = stat.number(46);
  facts.start_brk = stat.number(47);
  facts.arg_start = stat.number(48);
  facts.arg_end = stat.number(49);
  facts.env_start = stat.number(50);
  facts.env_end = stat.number(51);

  const std::vector<uint32_t> uids = Numbers(StatusLine(status, "Uid"));
  const std::vector<uint32_t> gids = Numbers(StatusLine(status, "Gid"));
  if (uids.size() != 4 || gids.size() != 4) {
    return absl::InternalError(absl::StrCat(process.ProcPath("status"), ": no Uid or Gid line"));
  }
  facts.uid = uids[0], facts.euid = uids[1], facts.suid = uids[2], facts.fsuid = uids[3];
  facts.gid = gids[0], facts.egid = gids[1], facts.sgid = gids[2], facts.fsgid = gids[3];
  facts.tracer = static_cast<pid_t>(Number(StatusLine(status, "TracerPid")));
  facts.thread_count = Number(StatusLine(status, "Threads"));
  facts.no_new_privs = Number(StatusLine(status, "NoNewPrivs")) != 0;
  facts.seccomp_mode = Number(StatusLine(status, "Seccomp"));
  for (char digit : absl::StripAsciiWhitespace(StatusLine(status, "Umask"))) {
    if (digit >= '0' && digit <= '7') facts.umask = facts.umask * 8 + (digit - '0');
  }
  return facts;
}

absl::Status CheckTrackable(const ProcessHandle& process) {
  const pid_t pid = process.pid();
  INCR_ASSIGN_OR_RETURN(const ProcessFacts facts, ReadProcessFacts(process));
  const std::string name = absl::StrCat("pid ", pid, " (", facts.comm, ")");
  if (facts.kernel_thread) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is a kernel thread"));
  }
  if (IsSelfOrAncestor(pid)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is incr-ckpt itself or one of its parents"));
  }
  if (facts.zombie) {
    // A leader that called pthread_exit looks like a zombie while its threads go on.
    return absl::FailedPreconditionError(
        process.alive() ? absl::StrCat(name, " has lost its main thread, which is not supported")
                        : absl::StrCat(name, " has exited and waits for its parent (a zombie)"));
  }
  if (facts.tracer != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is being traced by pid ", facts.tracer));
  }
  const uint32_t us = geteuid();
  for (uint32_t uid : {facts.uid, facts.euid, facts.suid}) {
    if (uid != us) {
      return absl::PermissionDeniedError(absl::StrCat(name, " belongs to another user (uid ", uid,
                                                      ", we are uid ", us, ")"));
    }
  }
  return CheckSixtyFourBit(process);
}

absl::StatusOr<std::vector<pid_t>> ListThreads(const ProcessHandle& process) {
  const std::string path = process.ProcPath("task");
  std::vector<pid_t> tids;
  std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir(path.c_str()), closedir);
  if (tasks == nullptr) {
    if (errno == ENOENT) return tids;
    return ErrnoStatus(absl::StrCat("opendir(", path, ")"));
  }
  while (const dirent* entry = readdir(tasks.get())) {
    pid_t tid = 0;
    if (absl::SimpleAtoi(entry->d_name, &tid)) tids.push_back(tid);
  }
  return tids;
}

absl::StatusOr<std::vector<pid_t>> ListChildren(const ProcessHandle& process) {
  INCR_ASSIGN_OR_RETURN(const std::vector<pid_t> tids, ListThreads(process));
  return ListChildren(process, tids);
}

absl::StatusOr<std::vector<pid_t>> ListChildren(const ProcessHandle& process,
                                                const std::vector<pid_t>& tids) {
  std::vector<pid_t> children;
  for (const pid_t tid : tids) {
    const auto text = ReadProc(process.pid(), absl::StrCat("task/", tid, "/children"));
    if (absl::IsNotFound(text.status())) continue;  // the thread has exited
    INCR_RETURN_IF_ERROR(text);
    for (absl::string_view word : absl::StrSplit(*text, ' ', absl::SkipEmpty())) {
      pid_t child = 0;
      if (!absl::SimpleAtoi(word, &child)) continue;
      const auto stat_text = ReadProc(child, "stat");
      if (!stat_text.ok()) continue;
      const auto stat = ParseStat(*stat_text, "stat");
      if (stat.ok() && stat->state() != 'Z' && stat->state() != 'X') children.push_back(child);
    }
  }
  std::sort(children.begin(), children.end());
  return children;
}

}  // namespace incr
