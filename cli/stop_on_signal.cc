#include "cli/stop_on_signal.h"

#include <csignal>

namespace incr {
namespace {

volatile std::sig_atomic_t came = 0;

}  // namespace

StopOnSignal::StopOnSignal() {
  came = 0;
  struct sigaction action = {};
  action.sa_handler = [](int signal) { came = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (size_t i = 0; i < 3; ++i) {
    ::sigaction(kSignals[i], &action, &before_[i]);
    // nohup, or a job in the background of a script.
    if (before_[i].sa_handler == SIG_IGN) ::sigaction(kSignals[i], &before_[i], nullptr);
  }
}

StopOnSignal::~StopOnSignal() {
  for (size_t i = 0; i < 3; ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

int StopOnSignal::signal() { return came; }

}  // namespace incr
