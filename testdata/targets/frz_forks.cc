// Makes children as fast as it can, by fork, vfork, posix_spawn and by clone() with no exit signal
// (which PTRACE_O_TRACECLONE attaches). Each child exits with 7. Prints "ready"; at the end of its
// input "ok <children>" or "BAD ...".
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <thread>
#include <vector>

extern char** environ;

namespace {

std::atomic<bool> stopping{false};
std::atomic<long> made{0};

[[noreturn]] void Bad(const char* what, long result, int error) {
  printf("BAD %s: %ld, errno %d\n", what, result, error);
  fflush(stdout);
  _exit(1);
}

void Reap(const char* what, pid_t pid) {
  if (pid < 0) Bad(what, pid, errno);
  int status = 0;
  const pid_t reaped = waitpid(pid, &status, __WALL);
  if (reaped != pid || status != 7 << 8) Bad(what, status, errno);
  ++made;
}

void Fork() {
  const pid_t pid = fork();
  if (pid == 0) _exit(7);
  Reap("fork", pid);
}

void Vfork() {
  const pid_t pid = vfork();
  if (pid == 0) _exit(7);
  Reap("vfork", pid);
}

void Spawn() {
  char name[] = "/bin/sh", option[] = "-c", command[] = "exit 7";
  char* arguments[] = {name, option, command, nullptr};
  pid_t pid = -1;
  errno = posix_spawn(&pid, name, nullptr, nullptr, arguments, environ);
  Reap("posix_spawn", pid);
}

void CloneWithoutSignal() {
  const long pid = syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
  if (pid == 0) _exit(7);
  Reap("clone", static_cast<pid_t>(pid));
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (auto* make : {Fork, Vfork, Spawn, CloneWithoutSignal}) {
    threads.emplace_back([make] {
      while (!stopping) make();
    });
  }
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  stopping = true;
  for (std::thread& thread : threads) thread.join();
  printf("ok %ld\n", made.load());
}
