// harness.h — drives the real incr-ckpt binary and real programs, as a user would.
//
// The test process is a child subreaper, so that restored processes become its
// children when the restoring command ends, and their pids are free as soon as it has
// reaped them (PID 1 may take seconds). Ends only what it started, by pid.
#ifndef INCR_CKPT_CLI_E2E_HARNESS_H_
#define INCR_CKPT_CLI_E2E_HARNESS_H_

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/control.pb.h"

namespace incr::e2e {

struct CommandResult {
  int status = -1;  // exit status, 128 + signal
  std::string out, err;
};

struct Stdio {
  std::string in = "/dev/null", out, err;  // files; empty: captured
};

// A program in the background.
class Program {
 public:
  // argv[0] is a path.
  static Program Start(const std::vector<std::string>& argv, const Stdio& stdio);
  Program() = default;
  Program(Program&& other) noexcept;
  Program& operator=(Program&& other) noexcept;
  ~Program();  // SIGKILL and reap.

  pid_t pid() const { return pid_; }
  void Kill();                              // SIGKILL and reap
  int Wait(int timeout_s = 60);             // exit status; -1 on timeout
  bool Running() const;

 private:
  pid_t pid_ = 0;
};

// Kills and reaps a process that became ours (a restored one).
void KillAndReap(pid_t pid);
// Exit status of such a process, -1 on timeout.
int WaitFor(pid_t pid, int timeout_s);

std::string ReadAll(const std::string& path);
bool Await(const std::function<bool()>& condition, int timeout_ms = 10'000);

// Each test has a folder and a store of its own.
class EndToEnd : public testing::Test {
 protected:
  EndToEnd();
  ~EndToEnd() override;

  // incr-ckpt --store <ours> ARGUMENTS...
  CommandResult Ckpt(std::vector<std::string> arguments, int timeout_s = 60);
  Program StartCkpt(std::vector<std::string> arguments, const Stdio& stdio);

  template <typename Reply>
  Reply CkptJson(std::vector<std::string> arguments);
  pb::ListReply List() { return CkptJson<pb::ListReply>({"list"}); }
  pb::StatusReply Status() { return CkptJson<pb::StatusReply>({"status"}); }

  // The last progress a self-verifying target reported: its step, or -1 after "BAD".
  int64_t Progress() const;
  // Waits until the target has verified `steps` more steps; a failure names what it said.
  void ExpectProgress(int steps, const std::string& when);
  // Progress back to zero in place (same inode), so that a restored process's is its own.
  void ClearProgress();

  // `restore --epoch N --detach [more]`, checked to make progress, by itself verified; returns its pid.
  pid_t RestoreAndExpectProgress(uint64_t epoch, int steps,
                                 const std::vector<std::string>& more = {});

  std::string folder_, store_, progress_;
};

// The binary under test.
std::string CkptBinary();
// INCR_TRACKER: the tracker that is to be used, by name; empty: the best that works.
std::string WantedTracker();
// INCR_E2E_EPOCHS, for machines where each takes seconds; else `usual`.
int EpochsToTake(int usual);
bool ParseJson(const std::string& text, google::protobuf::Message* message);

template <typename Reply>
Reply EndToEnd::CkptJson(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "--json");
  CommandResult result = Ckpt(arguments);
  EXPECT_EQ(result.status, 0) << arguments[1] << ": " << result.err;
  Reply reply;
  EXPECT_TRUE(ParseJson(result.out, &reply)) << result.out;
  return reply;
}

}  // namespace incr::e2e

#endif  // INCR_CKPT_CLI_E2E_HARNESS_H_
