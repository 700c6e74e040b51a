// agent_client.h — the session's end of the agent (agent.h).
//
// Thread safety: none.
#ifndef INCR_CKPT_CHECKPOINT_AGENT_CLIENT_H_
#define INCR_CKPT_CHECKPOINT_AGENT_CLIENT_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/scoped_fd.h"
#include "process/process_handle.h"
#include "proto/agent.pb.h"
#include "proto/image.pb.h"

namespace incr {

class AgentClient {
 public:
  // Spawns `command` with the socket's number (3) appended. kUnavailable from any later
  // call: the agent died; the target has been let go by the kernel; spawn another.
  static absl::StatusOr<AgentClient> Spawn(const std::vector<std::string>& command);

  AgentClient(AgentClient&&) noexcept;
  AgentClient& operator=(AgentClient&&) noexcept;
  ~AgentClient();  // Closes the socket, waits for the agent to thaw and end.

  // Names the target. With `uffd_features` the result is a userfaultfd created in it.
  absl::StatusOr<ScopedFd> Attach(const ProcessHandle& target, uint64_t uffd_features);

  struct FreezeOptions {
    bool bare = false;  // only stop it: no state is captured
    bool allow_unsupported = false;
    bool deleted_files = false;  // see CaptureLasting
    // Where the agent may map some pages for its calls in the target, far from any other mapping. Who reads
    // the maps in the freeze may see them there or not.
    uint64_t scratch = 0;
    bool settled = false;  // return only when the agent has read the state and unmapped them
  };
  // Returns once every thread rests. The agent then reads the state while the caller scans and copies.
  absl::Status Freeze(const FreezeOptions& options);
  // Waits for the end of the agent's calls in the target, but no longer than `us`: they want the mmap lock
  // and a CPU, as does who begins to scan with all there is.
  absl::Status AwaitCalls(int64_t us);
  // To be called at least every second while frozen.
  absl::Status KeepFrozen();

  struct Thawed {
    bool held = false;      // it stood still until now; else nothing read meanwhile counts
    int64_t frozen_us = 0;  // for how long
    absl::Status state;     // why `image` is missing
    pb::Image image;        // without mappings; empty after a bare freeze
    uint64_t scratch = 0;   // where the agent's pages were; 0 if there were none
  };
  // After every successful Freeze.
  absl::StatusOr<Thawed> Thaw();

 private:
  AgentClient(pid_t pid, ScopedFd socket) : pid_(pid), socket_(std::move(socket)) {}
  absl::Status Send(pb::AgentRequest::Operation operation);
  absl::StatusOr<pb::AgentReply> ReceiveAny(ScopedFd* attached);
  absl::StatusOr<pb::AgentReply> Receive(ScopedFd* attached = nullptr);
  absl::StatusOr<pb::AgentReply> ReceiveOk(ScopedFd* attached = nullptr);
  void Close();
  pid_t pid_ = 0;
  ScopedFd socket_;
  bool calls_over_ = true;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_AGENT_CLIENT_H_
