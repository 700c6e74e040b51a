// foreground.h — this command stands for a child process: signals go on to it, its status
// becomes ours.
//
// Thread safety: none; one per process, on the main thread.
#ifndef INCR_CKPT_CLI_FOREGROUND_H_
#define INCR_CKPT_CLI_FOREGROUND_H_

#include <signal.h>
#include <sys/types.h>

namespace incr {

// Exit status of what waitpid told: 128 + N if signal N killed it.
int ExitStatusOf(int wait_status);

class Foreground {
 public:
  // From now on signals wait (blocked in this thread) instead of killing us.
  Foreground();
  ~Foreground();  // As before.
  Foreground(const Foreground&) = delete;

  // A signal that asks us to end waits; 0 if none.
  int PendingEndSignal() const;

  // Waits for our child `pid` to end, passing signals on; its exit status. A signal that the
  // terminal sent to our whole process group is passed on only if the child is in another one.
  // A child that its terminal stops (Ctrl-Z) stops us too.
  int WaitFor(pid_t pid);

 private:
  void PassOn(const siginfo_t& info, pid_t pid);

  sigset_t signals_;
  sigset_t original_;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_FOREGROUND_H_
