// lingering_id.h — a pid or tid that nobody has any more and that still cannot be taken.
//
// Since Linux 6.15 an exiting thread gives its id back only after it has left /proc and after its
// process could be reaped (release_task: proc_flush_pid, then free_pids). On a busy machine
// clone3(set_tid) then failed with EEXIST for up to 6 ms (measured, one kill in 150).
#ifndef INCR_CKPT_PROCESS_LINGERING_ID_H_
#define INCR_CKPT_PROCESS_LINGERING_ID_H_

#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace incr {

// One attempt to take one id. Not thread-safe.
class LingeringId {
 public:
  explicit LingeringId(pid_t id) : path_(absl::StrCat("/proc/", id)) {}

  // After an EEXIST. True: it should come free, try again (1 ms has passed). False: somebody
  // has it, or a second has gone by.
  bool ShouldRetry() const {
    constexpr int64_t kPatienceUs = 1'000'000;
    const int error = errno;
    const bool retry =
        ::access(path_.c_str(), F_OK) != 0 && since_.elapsed_us() <= kPatienceUs;
    if (retry) ::usleep(1000);
    errno = error;  // the caller's, of its last attempt
    return retry;
  }

 private:
  std::string path_;
  Stopwatch since_;
};

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_LINGERING_ID_H_
