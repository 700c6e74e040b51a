// self_child.h — for the store's tests: this program once more, as a child that fault points kill, or we do. (A fork
// alone would not do: RocksDB's threads do not survive it.) What it is to do is up to the program's main().
#ifndef INCR_CKPT_STORE_SELF_CHILD_H_
#define INCR_CKPT_STORE_SELF_CHILD_H_

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "base/scoped_fd.h"
#include "base/status.h"

namespace incr {

class SelfChild {
 public:
  // A descriptor of the child's, for its arguments: what it writes there Receive() gets.
  static constexpr int kReportFd = 9;

  // `arguments` without the program's name. `faults`: as INCR_CKPT_FAULTS has them; then it is all of its environment.
  explicit SelfChild(const std::vector<std::string>& arguments, const std::string& faults = "") {
    int ends[2];
    INCR_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    std::vector<const char*> argv = {"self"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    argv.push_back(nullptr);
    const std::string setting = "INCR_CKPT_FAULTS=" + faults;
    const char* const armed[] = {setting.c_str(), nullptr};
    const char* const* const environment = faults.empty() ? environ : armed;
    pid_ = ::fork();
    if (pid_ == 0) {
      if (ends[1] == kReportFd ? ::fcntl(kReportFd, F_SETFD, 0) == 0 : ::dup2(ends[1], kReportFd) == kReportFd) {
        ::execve("/proc/self/exe", const_cast<char**>(argv.data()), const_cast<char**>(environment));
      }
      ::_exit(127);
    }
    INCR_CHECK(pid_ > 0);
    report_ = ScopedFd(ends[0]);
    ::close(ends[1]);
  }
  SelfChild(const SelfChild&) = delete;
  ~SelfChild() {
    if (pid_ == 0) return;
    Kill();
    (void)Wait();
  }

  // Waits for one. False: it has ended, or closed the descriptor.
  template <typename T>
  bool Receive(T* report) const {
    return ::read(report_.get(), report, sizeof *report) == sizeof *report;
  }
  void Kill() const { ::kill(pid_, SIGKILL); }
  // Its wait status. Once.
  int Wait() {
    int status = 0;
    INCR_CHECK(::waitpid(pid_, &status, 0) == pid_);
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_ = 0;
  ScopedFd report_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_SELF_CHILD_H_
