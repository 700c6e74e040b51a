#include "process/features.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "process/kernel_abi.h"
#include "process/process_handle.h"
#include "process/tracking_probes.h"

namespace incr {
namespace {

Feature Named(const char* name, const char* used_for) { return {name, false, "", used_for}; }

Feature Works(Feature feature, std::string detail) {
  feature.works = true;
  feature.detail = std::move(detail);
  return feature;
}

Feature FailsWith(Feature feature, const char* call, int error) {
  feature.detail = absl::StrCat(call, ": ", std::strerror(error));
  return feature;
}

void Reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

// A child that sleeps; killed and reaped at the end.
class SleepingChild {
 public:
  SleepingChild() {
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
  }
  SleepingChild(const SleepingChild&) = delete;
  SleepingChild& operator=(const SleepingChild&) = delete;
  ~SleepingChild() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    Reap(pid_);
  }
  pid_t pid() const { return pid_; }  // < 0: could not be made

 private:
  pid_t pid_;
};

Feature ProbePtrace() {
  Feature feature = Named("ptrace", "freezing, registers, remote system calls");
  const SleepingChild child;
  if (child.pid() < 0) return FailsWith(feature, "fork", errno);
  if (::ptrace(PTRACE_SEIZE, child.pid(), 0, 0) != 0) {
    return FailsWith(feature, "PTRACE_SEIZE", errno);
  }
  return Works(feature, "a child can be seized");
}

Feature ProbeSuspendSeccomp() {
  Feature feature = Named("suspend_seccomp", "remote system calls in targets with a seccomp filter");
  const SleepingChild child;
  if (child.pid() < 0) return FailsWith(feature, "fork", errno);
  if (::ptrace(PTRACE_SEIZE, child.pid(), 0, PTRACE_O_SUSPEND_SECCOMP) != 0) {
    return FailsWith(feature, "PTRACE_SEIZE with PTRACE_O_SUSPEND_SECCOMP", errno);
  }
  return Works(feature, "the option is accepted");
}

Feature ProbeRseqConfiguration() {
  Feature feature = Named("rseq_config", "saving and restoring restartable sequences");
  const SleepingChild child;
  if (child.pid() < 0) return FailsWith(feature, "fork", errno);
  if (::ptrace(PTRACE_SEIZE, child.pid(), 0, 0) != 0 ||
      ::ptrace(PTRACE_INTERRUPT, child.pid(), 0, 0) != 0) {
    return FailsWith(feature, "PTRACE_INTERRUPT", errno);
  }
  while (::waitpid(child.pid(), nullptr, __WALL) < 0 && errno == EINTR) {
  }
  struct {
    uint64_t pointer;
    uint32_t size, signature, flags, pad;
  } rseq{};
  const long n = ::ptrace(static_cast<__ptrace_request>(PTRACE_GET_RSEQ_CONFIGURATION),
                          child.pid(), sizeof rseq, &rseq);
  if (n < 0) return FailsWith(feature, "PTRACE_GET_RSEQ_CONFIGURATION", errno);
  return Works(feature, rseq.pointer == 0 ? "readable (none registered in this program)"
                                          : absl::StrFormat("readable, area of %d bytes", rseq.size));
}

Feature ProbePidfdGetfd() {
  Feature feature = Named("pidfd_getfd", "taking the userfaultfd out of the target");
  const SleepingChild child;
  if (child.pid() < 0) return FailsWith(feature, "fork", errno);
  const ScopedFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child.pid(), 0)));
  if (!pidfd.ok()) return FailsWith(feature, "pidfd_open", errno);
  // Any descriptor will do; a child without any answers EBADF, which is permission enough.
  const ScopedFd taken(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), 0, 0)));
  if (!taken.ok() && errno != EBADF) return FailsWith(feature, "pidfd_getfd", errno);
  return Works(feature, "a descriptor of a child can be taken");
}

Feature ProbeProcessVmReadv() {
  Feature feature = Named("process_vm_readv", "copying pages");
  const SleepingChild child;
  if (child.pid() < 0) return FailsWith(feature, "fork", errno);
  static const int kNumber = 71;
  int copy = 0;
  iovec local{&copy, sizeof copy}, remote{const_cast<int*>(&kNumber), sizeof kNumber};
  if (::process_vm_readv(child.pid(), &local, 1, &remote, 1, 0) != sizeof copy) {
    return FailsWith(feature, "process_vm_readv", errno);
  }
  return Works(feature, "memory of a child can be read");
}

// The child runs on the parent's copy-on-write memory, as after fork().
pid_t CloneWithPid(pid_t wanted) {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<uintptr_t>(&wanted);
  args.set_tid_size = 1;
  const pid_t pid = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
  if (pid == 0) ::_exit(0);
  return pid;
}

Feature ProbeCloneSetTid() {
  Feature feature = Named("clone3_set_tid", "restoring under the same pid and thread ids");
  for (int attempt = 0; attempt < 5; ++attempt) {
    pid_t free_pid;
    {
      const SleepingChild child;
      if (child.pid() < 0) return FailsWith(feature, "fork", errno);
      free_pid = child.pid();
    }
    const pid_t pid = CloneWithPid(free_pid);
    if (pid < 0 && errno == EEXIST) continue;  // Someone else was faster.
    if (pid < 0) return FailsWith(feature, "clone3 with set_tid", errno);
    Reap(pid);
    if (pid != free_pid) {
      feature.detail = absl::StrCat("asked for pid ", free_pid, ", got ", pid);
      return feature;
    }
    return Works(feature, "a child was given the pid asked for");
  }
  feature.detail = "every pid that was tried was taken at once";
  return feature;
}

Feature ProbeMapFiles() {
  Feature feature = Named("map_files", "reading shared memory without touching its holes");
  void* p = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return FailsWith(feature, "mmap", errno);
  const uint64_t start = reinterpret_cast<uint64_t>(p);
  const std::string path =
      absl::StrFormat("/proc/self/map_files/%x-%x", start, start + kPageSize);
  const ScopedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const int error = errno;
  ::munmap(p, kPageSize);
  if (!fd.ok()) return FailsWith(feature, path.c_str(), error);
  return Works(feature, "the object behind a mapping can be opened");
}

Feature ProbeIoUring() {
  Feature feature = Named("io_uring", "writing packs");
  alignas(8) char parameters[256] = {};  // struct io_uring_params is 120 bytes
  const ScopedFd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 4, parameters)));
  if (!ring.ok()) return FailsWith(feature, "io_uring_setup", errno);
  return Works(feature, "a ring can be set up");
}

Feature ProbeKcmp() {
  Feature feature = Named("kcmp", "seeing which descriptors share an open file");
  const ScopedFd a(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const ScopedFd b(::fcntl(a.get(), F_DUPFD_CLOEXEC, 0));
  const pid_t self = ::getpid();
  const long order = ::syscall(SYS_kcmp, self, self, KCMP_FILE, a.get(), b.get());
  if (order < 0) return FailsWith(feature, "kcmp", errno);
  if (order != 0) {
    feature.detail = "a duplicated descriptor compares as another file";
    return feature;
  }
  return Works(feature, "a duplicated descriptor compares equal");
}

// In a child, to its own present values: nothing changes, but the kernel checks it all.
Feature ProbeMmMap() {
  Feature feature = Named("prctl_mm_map", "restoring brk, stack, arguments and auxv");
  auto self = ProcessHandle::Open(::getpid());
  if (!self.ok()) return feature.detail = std::string(self.status().message()), feature;
  auto facts = ReadProcessFacts(*self);
  auto auxv = ReadWholeFile("/proc/self/auxv");
  if (!facts.ok() || !auxv.ok()) return feature.detail = "cannot read /proc/self", feature;
  prctl_mm_map map{};
  map.start_code = facts->start_code;
  map.end_code = facts->end_code;
  map.start_data = facts->start_data;
  map.end_data = facts->end_data;
  map.start_brk = facts->start_brk;
  map.brk = reinterpret_cast<uintptr_t>(::sbrk(0));
  map.start_stack = facts->start_stack;
  map.arg_start = facts->arg_start;
  map.arg_end = facts->arg_end;
  map.env_start = facts->env_start;
  map.env_end = facts->env_end;
  map.auxv = reinterpret_cast<decltype(map.auxv)>(auxv->data());
  map.auxv_size = auxv->size();
  map.exe_fd = UINT32_MAX;
  const pid_t child = ::fork();
  if (child < 0) return FailsWith(feature, "fork", errno);
  if (child == 0) {
    const int result = ::prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
    ::_exit(result == 0 ? 0 : errno & 255);
  }
  int status = 0;
  pid_t reaped;
  do {
    reaped = ::waitpid(child, &status, 0);
  } while (reaped < 0 && errno == EINTR);
  if (reaped != child || !WIFEXITED(status)) return feature.detail = "the child died", feature;
  if (WEXITSTATUS(status) != 0) {
    return FailsWith(feature, "prctl(PR_SET_MM_MAP)", WEXITSTATUS(status));
  }
  return Works(feature, "a process can set its own layout");
}

}  // namespace

std::vector<Feature> ProbeFeatures() {
  return {
      ProbePtrace(),          ProbeProcessVmReadv(),   ProbePidfdGetfd(),
      ProbeUserfaultfd(),     ProbePagemapScan(),      ProbeUffdWpAsync(),
      ProbeUffdWp(),
      ProbeThpDontneed(),     ProbeMremapClearsWp(),   ProbePagemapGuard(),
      ProbeWrittenReportsEmpty(), ProbePagemapFrames(),   ProbeSoftDirty(),        ProbeMapFiles(),
      ProbeSuspendSeccomp(),  ProbeRseqConfiguration(), ProbeKcmp(),
      ProbeIoUring(),         ProbeCloneSetTid(),      ProbeMmMap(),
  };
}

bool FeatureWorks(const std::vector<Feature>& features, absl::string_view name) {
  for (const Feature& feature : features) {
    if (feature.name == name) return feature.works;
  }
  return false;
}

}  // namespace incr
