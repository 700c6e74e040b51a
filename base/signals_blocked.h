// signals_blocked.h — while it lives the calling thread takes no signals, nor do threads that are born of
// it meanwhile, for ever. Signals are the business of the process's own thread: one that it waits for (a
// foreground restore's SIGTERM) must not be delivered to a helper. Thread-safe.
#ifndef INCR_CKPT_BASE_SIGNALS_BLOCKED_H_
#define INCR_CKPT_BASE_SIGNALS_BLOCKED_H_

#include <pthread.h>
#include <signal.h>

namespace incr {

class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;
  ~AllSignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_SIGNALS_BLOCKED_H_
