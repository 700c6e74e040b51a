// agent.h — the tracer lives in a process of its own.
//
// ptrace injection changes a target's registers for some microseconds. If the tracer is
// killed there, the kernel lets the target go on with them. So the daemon does no
// ptrace: a small agent per job does. It outlives the daemon for as long as a request
// takes; when its socket closes, or when the daemon says nothing for
// kFrozenPatience while the target is frozen, it thaws (invariant 3).
#ifndef INCR_CKPT_CHECKPOINT_AGENT_H_
#define INCR_CKPT_CHECKPOINT_AGENT_H_

namespace incr {

// A daemon that was stopped (SIGSTOP, a full disk that blocks) must not hold the target.
inline constexpr int kFrozenPatienceMs = 5000;

// Whoever works while the target stands still does so at this nice value, if it may.
inline constexpr int kUrgentNice = -15;

// The agent's whole life; returns its exit status when the socket closes. main() of
// incr-ckpt calls it for `incr-ckpt internal-agent <fd>`. Single-threaded.
int RunAgent(int socket_fd);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_AGENT_H_
