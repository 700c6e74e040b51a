// real_sessions.h — the SessionFactory that tracks processes.
#ifndef INCR_CKPT_CLI_REAL_SESSIONS_H_
#define INCR_CKPT_CLI_REAL_SESSIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "cli/session_factory.h"
#include "store/store.h"

namespace incr {

// `store` outlives it. `agent_command`: argv of the tracing agent (checkpoint/agent.h).
std::unique_ptr<SessionFactory> NewSessionFactory(Store* store,
                                                  std::vector<std::string> agent_command);

}  // namespace incr

#endif  // INCR_CKPT_CLI_REAL_SESSIONS_H_
