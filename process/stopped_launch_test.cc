#include "process/stopped_launch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace incr {
namespace {

// "" when there is no such process.
std::string StatField(pid_t pid, int index) {  // 3: state
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream text;
  text << file.rdbuf();
  if (text.str().empty()) return "";
  std::stringstream rest(text.str().substr(text.str().rfind(')') + 2));
  std::string field;
  for (int i = 3; i <= index; ++i) rest >> field;
  return field;
}

std::string Marker() {
  return std::string(::testing::TempDir()) + "/stopped_launch_" + std::to_string(::getpid());
}

bool Exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

TEST(StoppedLaunchTest, RestsBeforeItsFirstInstructionUntilItIsReleased) {
  ::unlink(Marker().c_str());
  auto launch = StoppedLaunch::Launch({"sh", "-c", "touch " + Marker() + "; exit 7"});
  ASSERT_TRUE(launch.ok()) << launch.status();
  const pid_t pid = launch->pid();
  EXPECT_EQ(StatField(pid, 3), "t");
  ASSERT_TRUE(launch->LetBeTraced().ok());
  EXPECT_EQ(StatField(pid, 3), "T");
  char exe[256] = {};
  ASSERT_GT(::readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), exe, sizeof exe), 0);
  EXPECT_NE(std::string(exe).find("sh"), std::string::npos) << "the exec is over: " << exe;
  // Another tracer can have it (here: our own thread again), and it has run nothing.
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, pid, 0, 0), 0);
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
  ASSERT_EQ(::waitpid(pid, nullptr, __WALL), pid);
  ASSERT_EQ(::ptrace(PTRACE_DETACH, pid, 0, 0), 0);
  EXPECT_FALSE(Exists(Marker()));
  launch->Release();
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_TRUE(Exists(Marker()));
  ::unlink(Marker().c_str());
}

TEST(StoppedLaunchTest, NotReleasedMeansNeverRun) {
  ::unlink(Marker().c_str());
  for (const bool detached : {false, true}) {
    pid_t pid;
    {
      auto launch = StoppedLaunch::Launch({"touch", Marker()});
      ASSERT_TRUE(launch.ok());
      pid = launch->pid();
      if (detached) {
        ASSERT_TRUE(launch->LetBeTraced().ok());
      }
    }
    EXPECT_EQ(::kill(pid, 0), -1);
    EXPECT_FALSE(Exists(Marker()));
  }
}

TEST(StoppedLaunchTest, WhatCannotBeExecutedIsSaid) {
  EXPECT_TRUE(absl::IsNotFound(StoppedLaunch::Launch({"no-such-program"}).status()));
  EXPECT_TRUE(absl::IsNotFound(StoppedLaunch::Launch({"/no/such/program"}).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(StoppedLaunch::Launch({"/etc/passwd"}).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(StoppedLaunch::Launch({"/"}).status()));
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "an unreaped child is left";
}

TEST(StoppedLaunchTest, DiesWithItsLauncherWhileHeld) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t launcher = ::fork();
  if (launcher == 0) {
    auto launch = StoppedLaunch::Launch({"sleep", "1000"});
    const pid_t pid = launch->pid();
    (void)!::write(ends[1], &pid, sizeof pid);
    ::raise(SIGKILL);
  }
  pid_t pid = 0;
  ASSERT_EQ(::read(ends[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  ::waitpid(launcher, nullptr, 0);
  for (int i = 0; i < 1000; ++i) {
    const std::string state = StatField(pid, 3);
    if (state.empty() || state == "Z" || state == "X") return;
    ::usleep(5000);
  }
  ADD_FAILURE() << "pid " << pid << " lives on in state " << StatField(pid, 3);
}

}  // namespace
}  // namespace incr
