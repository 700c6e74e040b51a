// torture_machine.h — what of the machine itself the torture test needs: KSM that runs, swap that
// takes pages (zram), a few pages for hugetlbfs. Test code, not thread-safe.
//
// The settings are the whole machine's, so they are put back even where the test is killed: a child
// process waits for that.
#ifndef INCR_CKPT_TRACKER_TORTURE_MACHINE_H_
#define INCR_CKPT_TRACKER_TORTURE_MACHINE_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/scoped_fd.h"

namespace incr {

class TortureMachine {
 public:
  TortureMachine();
  TortureMachine(const TortureMachine&) = delete;
  TortureMachine& operator=(const TortureMachine&) = delete;
  ~TortureMachine();  // Everything is as before when it returns.

  // What could not be had, and why: to be printed.
  const std::vector<std::string>& missing() const { return missing_; }

  // Migrates pages all over the machine; milliseconds.
  void Compact();

 private:
  pid_t keeper_ = -1;
  ScopedFd alive_;  // The keeper waits for its end.
  std::vector<std::string> missing_;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_TORTURE_MACHINE_H_
