// invisible_stop.h — what a ptrace stop would let the program notice, put right in its registers.
//
// 1. Some system calls answer EINTR to any interruption, not only to a signal with a handler
//    (signal(7): epoll_wait, sigwaitinfo, semop). If the call has no timeout, -ERESTARTNOHAND
//    takes the answer's place: the kernel then makes the call again, unless a handler has to
//    run, and then it is EINTR after all. With a timeout EINTR stays: nobody can read how much of it
//    is left, and a call that starts anew at every freeze would never time out.
//
// 2. A thread interrupted inside a restartable sequence (rseq(2)) must go on at its abort
//    handler if it was moved or preempted. The kernel looks at rip for that: were an
//    injected call to run first, it would find rip outside the sequence, forget the sequence,
//    and let the thread finish it on another CPU. So it is sent to the abort handler at once.
#ifndef INCR_CKPT_PROCESS_INVISIBLE_STOP_H_
#define INCR_CKPT_PROCESS_INVISIBLE_STOP_H_

#include <sys/types.h>

#include <cstdint>

#include "absl/status/status.h"
#include "process/registers.h"

namespace incr {

// `tid` has just come to rest in the signal path.
absl::Status HideStopFromProgram(pid_t tid);

// Point 1. Pure.
bool AnsweredEintrForNothing(const Registers& registers);

struct RseqCriticalSection {  // struct rseq_cs of linux/rseq.h
  uint32_t version, flags;
  uint64_t start_ip, post_commit_offset, abort_ip;
};
// Point 2. Pure.
bool InsideCriticalSection(const Registers& registers, const RseqCriticalSection& section);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_INVISIBLE_STOP_H_
