// A counter that knows who it is: pid, program, arguments, environment, auxiliary vector,
// limits, clock, heap. Everything is compared at every tick with what it was at the start.
#include <errno.h>
#include <linux/membarrier.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <string>
#include <vector>

#include "rst_common.h"

static std::string ReadFile(const char* path) {
  std::string text;
  int fd = open(path, O_RDONLY);
  EXPECT(fd >= 0);
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, n);
  close(fd);
  return text;
}

static std::string ReadLink(const char* path) {
  char buffer[4096];
  ssize_t n = readlink(path, buffer, sizeof buffer);
  EXPECT(n > 0);
  return std::string(buffer, n);
}

static std::string Field(const char* name) {
  const std::string status = ReadFile("/proc/self/status");
  const size_t at = status.find(std::string("\n") + name);
  if (at == std::string::npos) return "";
  return status.substr(at + 1, status.find('\n', at + 1) - at - 1);
}

// Everything that must not change, as text.
static std::string Identity() {
  std::string all;
  const auto add = [&](const std::string& part) { all += part + "\n"; };
  add(std::to_string(getpid()) + " " + std::to_string(syscall(SYS_gettid)));
  add(std::to_string(getpgrp()) + " " + std::to_string(getsid(0)));
  add(ReadLink("/proc/self/exe"));
  add(ReadFile("/proc/self/cmdline"));
  add(ReadFile("/proc/self/environ"));
  add(ReadFile("/proc/self/auxv"));
  add(ReadFile("/proc/self/comm"));
  add(ReadFile("/proc/self/limits"));
  add(ReadLink("/proc/self/cwd"));
  add(ReadFile("/proc/self/coredump_filter"));
  add(ReadFile("/proc/self/oom_score_adj"));
  add(Field("THP_enabled"));
  add(Field("Umask"));
  add(Field("NoNewPrivs"));
  add(Field("Cpus_allowed:"));
  add(Field("SigIgn"));
  add(Field("SigCgt"));
  add(Field("SigBlk"));
  for (unsigned long tag : {AT_PHDR, AT_ENTRY, AT_SYSINFO_EHDR, AT_RANDOM, AT_EXECFN}) {
    add(std::to_string(getauxval(tag)));
  }
  char name[16];
  prctl(PR_GET_NAME, name);
  add(name);
  add(std::to_string(personality(0xffffffff)));
  add(std::to_string(prctl(PR_GET_DUMPABLE)));
  int subreaper = 0;
  prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
  add(std::to_string(subreaper));
  add(std::to_string(prctl(PR_GET_TIMERSLACK)));
  add(std::to_string(getpriority(PRIO_PROCESS, 0)));
  return all;
}

int main(int argc, char** argv) {
  GoOn(SIGTERM);
  setsid();
  umask(037);
  EXPECT(chdir("/usr/lib") == 0);
  prctl(PR_SET_NAME, "who [am] \xc3\xa4");
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_TIMERSLACK, 77777);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  EXPECT(setpriority(PRIO_PROCESS, 0, 3) == 0);
  personality(ADDR_NO_RANDOMIZE);
  signal(SIGUSR2, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGURG);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  rlimit limit = {700, 800};
  EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);

  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  const int filter = open("/proc/self/coredump_filter", O_WRONLY);
  EXPECT(write(filter, "0x51", 4) == 4);
  close(filter);
  const int score = open("/proc/self/oom_score_adj", O_WRONLY);
  EXPECT(write(score, "123", 3) == 3);
  close(score);
  EXPECT(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);

  const std::string identity = Identity();
  std::vector<uint64_t*> heap;
  char* const break_at_start = static_cast<char*>(sbrk(0));
  timespec last = {};
  Say("ready");
  for (int tick = 0; !go; ++tick) {
    const std::string now = Identity();
    if (now != identity) {
      size_t at = 0;
      while (now[at] == identity[at]) ++at;
      Say("BAD identity: was ...%.80s", identity.substr(at > 20 ? at - 20 : 0).c_str());
      Say("BAD identity: now ...%.80s", now.substr(at > 20 ? at - 20 : 0).c_str());
      return 1;
    }
    EXPECT(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
    // The heap grows at its end, and what was there stays.
    EXPECT(sbrk(0) == break_at_start + heap.size() * 4096);
    void* grown = sbrk(4096);
    EXPECT(grown == break_at_start + heap.size() * 4096);
    heap.push_back(static_cast<uint64_t*>(grown));
    Fill(grown, 4096, heap.size());
    for (size_t i = 0; i < heap.size(); ++i) EXPECT(IsFilled(heap[i], 4096, i + 1));
    timespec clock;
    EXPECT(clock_gettime(CLOCK_MONOTONIC, &clock) == 0);  // through the vdso
    EXPECT(clock.tv_sec > last.tv_sec || (clock.tv_sec == last.tv_sec && clock.tv_nsec >= last.tv_nsec));
    last = clock;
    Say("tick %d", tick);
    SleepMs(5);
    if (heap.size() > 3000) return 2;
  }
  Say("done");
  return 0;
}
