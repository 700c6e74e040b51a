// stop_on_signal.h — Ctrl-C (and SIGTERM, SIGHUP) ends a long command at its next step instead of killing it. The same
// signal a second time kills; one that was ignored stays so.
//
// One at a time, in the main thread.
#ifndef INCR_CKPT_CLI_STOP_ON_SIGNAL_H_
#define INCR_CKPT_CLI_STOP_ON_SIGNAL_H_

#include <signal.h>

namespace incr {

class StopOnSignal {
 public:
  StopOnSignal();
  ~StopOnSignal();  // As it was before.
  StopOnSignal(const StopOnSignal&) = delete;

  static int signal();  // that came; 0: none
  static bool stopped() { return signal() != 0; }

 private:
  static constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction before_[3];
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_STOP_ON_SIGNAL_H_
