// exec_watch.h — keeps PTRACE_SEIZE and an exec of the target from waiting for each other.
//
// A thread that makes an exec holds the process's cred_guard_mutex, kills all other threads and
// waits until each is gone; a killed tracee is gone only when its tracer reaps it. The tracer
// meanwhile sits in PTRACE_SEIZE of the next thread, which waits for cred_guard_mutex, and no
// signal gets it out (met in one of 1,000 freezes of a program that execs all the time). So
// another thread of ours looks on: when a seize takes longer than 20 ms it reaps in its place.
//
// Costs a thread's creation, before anything is frozen. Thread safety: one user.
#ifndef INCR_CKPT_PROCESS_EXEC_WATCH_H_
#define INCR_CKPT_PROCESS_EXEC_WATCH_H_

#include <sys/types.h>

#include <memory>

namespace incr {

class ExecWatch {
 public:
  explicit ExecWatch(pid_t pid);
  ExecWatch(const ExecWatch&) = delete;
  ExecWatch& operator=(const ExecWatch&) = delete;
  ~ExecWatch();  // the thread ends soon after

  // Around each PTRACE_SEIZE.
  void Enter();
  void Leave();

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_EXEC_WATCH_H_
