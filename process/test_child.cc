#include "process/test_child.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr int64_t kPatienceUs = 20'000'000;

}  // namespace

TestChild TestChild::Fork(const std::function<void()>& body) {
  int to_child[2], from_child[2];
  INCR_CHECK(pipe2(to_child, O_CLOEXEC) == 0 && pipe2(from_child, O_CLOEXEC) == 0);
  const pid_t pid = fork();
  INCR_CHECK(pid >= 0);
  if (pid == 0) {
    dup2(to_child[0], 0);
    dup2(from_child[1], 1);
    close(to_child[1]);
    close(from_child[0]);
    body();
    _exit(0);
  }
  TestChild child;
  close(to_child[0]);
  close(from_child[1]);
  child.input_ = ScopedFd(to_child[1]);
  child.output_ = ScopedFd(from_child[0]);
  auto handle = ProcessHandle::Open(pid);
  INCR_CHECK(handle.ok());
  child.handle_ = std::make_unique<ProcessHandle>(*std::move(handle));
  return child;
}

TestChild TestChild::Exec(const std::vector<std::string>& argv) {
  return Fork([&argv] {
    std::vector<char*> arguments;
    for (const std::string& argument : argv) {
      arguments.push_back(const_cast<char*>(argument.c_str()));
    }
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    perror(arguments[0]);
    _exit(127);
  });
}

TestChild::~TestChild() {
  if (handle_ == nullptr || reaped_) return;
  kill(pid(), SIGKILL);
  waitpid(pid(), nullptr, __WALL);
}

std::string TestChild::ReadLine() {
  const int64_t deadline_us = MonotonicMicros() + kPatienceUs;
  for (;;) {
    const size_t newline = buffered_.find('\n');
    if (newline != std::string::npos) {
      const std::string line = buffered_.substr(0, newline);
      buffered_.erase(0, newline + 1);
      return line;
    }
    const int64_t left_ms = (deadline_us - MonotonicMicros()) / 1000;
    pollfd poll_fd{output_.get(), POLLIN, 0};
    if (left_ms <= 0 || poll(&poll_fd, 1, static_cast<int>(left_ms)) <= 0) return "";
    char bytes[4096];
    const ssize_t n = read(output_.get(), bytes, sizeof bytes);
    if (n <= 0) return "";
    buffered_.append(bytes, n);
  }
}

void TestChild::WriteLine(const std::string& line) {
  INCR_CHECK(WriteExactly(input_.get(), (line + "\n").data(), line.size() + 1, "child").ok());
}

int TestChild::Wait() {
  int status = 0;
  const bool ended = Eventually([&] { return waitpid(pid(), &status, WNOHANG) == pid(); });
  if (!ended) {
    kill(pid(), SIGKILL);
    waitpid(pid(), nullptr, __WALL);
    status = -1;
  }
  reaped_ = true;
  return status;
}

void Say(const std::string& text) {
  const std::string line = text + "\n";
  if (write(1, line.data(), line.size()) < 0) _exit(126);
}

void AwaitLine() {
  char byte = 0;
  while (read(0, &byte, 1) == 1 && byte != '\n') {
  }
}

char StateOfThread(pid_t pid, pid_t tid) {
  const auto text = ReadWholeFile(absl::StrCat("/proc/", pid, "/task/", tid, "/stat"));
  if (!text.ok()) return 0;
  const size_t name_end = text->rfind(')');
  return name_end == std::string::npos ? 0 : (*text)[name_end + 2];
}

std::vector<pid_t> ListedThreads(pid_t pid) {
  std::vector<pid_t> tids;
  DIR* tasks = opendir(absl::StrCat("/proc/", pid, "/task").c_str());
  if (tasks == nullptr) return tids;
  while (const dirent* entry = readdir(tasks)) {
    if (entry->d_name[0] != '.') tids.push_back(std::atoi(entry->d_name));
  }
  closedir(tasks);
  return tids;
}

std::string StatusField(pid_t pid, const std::string& key) {
  const auto text = ReadWholeFile(absl::StrCat("/proc/", pid, "/status"));
  if (!text.ok()) return "";
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (line.substr(0, key.size() + 1) == key + ":") {
      return std::string(absl::StripAsciiWhitespace(line.substr(key.size() + 1)));
    }
  }
  return "";
}

bool Eventually(const std::function<bool()>& condition) {
  const int64_t deadline_us = MonotonicMicros() + kPatienceUs / 2;
  while (!condition()) {
    if (MonotonicMicros() > deadline_us) return false;
    const timespec nap{0, 200'000};
    nanosleep(&nap, nullptr);
  }
  return true;
}

}  // namespace incr
