// test_child.h — a process of a test's own: started, spoken to by two pipes, ended.
//
// Not thread-safe.
#ifndef INCR_CKPT_PROCESS_TEST_CHILD_H_
#define INCR_CKPT_PROCESS_TEST_CHILD_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/scoped_fd.h"
#include "process/process_handle.h"

namespace incr {

class TestChild {
 public:
  // A fork of the test that runs `body` and exits with 0. Fds 0 and 1 are the pipes.
  static TestChild Fork(const std::function<void()>& body);
  // A program; argv[0] is its path.
  static TestChild Exec(const std::vector<std::string>& argv);

  TestChild(TestChild&& other) = default;
  ~TestChild();  // SIGKILL and reap, unless Wait() did.

  pid_t pid() const { return handle_->pid(); }
  const ProcessHandle& handle() const { return *handle_; }

  // The next line it prints, without the newline; "" at its end or after 20 s.
  std::string ReadLine();
  void WriteLine(const std::string& line);
  void CloseInput() { input_.reset(); }

  // Waits for the end; the wait status, or -1 (and it is killed) if it takes over 20 s.
  int Wait();

 private:
  TestChild() = default;
  std::unique_ptr<ProcessHandle> handle_;
  ScopedFd input_, output_;
  std::string buffered_;
  bool reaped_ = false;
};

// In a body: prints `text` and a newline.
void Say(const std::string& text);
// In a body: blocks until the test writes a line or closes the input.
void AwaitLine();

// 'R', 'S', 'T', 't', 'Z'... of a thread; 0 if it is gone.
char StateOfThread(pid_t pid, pid_t tid);
// Tids of a process, as listed.
std::vector<pid_t> ListedThreads(pid_t pid);
// The text after "key:" in /proc/<pid>/status, trimmed.
std::string StatusField(pid_t pid, const std::string& key);
// Waits up to 10 s for a condition; false if it did not come.
bool Eventually(const std::function<bool()>& condition);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_TEST_CHILD_H_
