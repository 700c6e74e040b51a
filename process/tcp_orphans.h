// tcp_orphans.h — remains of closed TCP connections that keep a port from being bound.
//
// When a server is killed, its connections go on without it: in FIN_WAIT or TIME_WAIT for about a
// minute. If it had not set SO_REUSEADDR, nobody can bind its port meanwhile, not even with
// SO_REUSEADDR: both sides of the conflict need it.
#ifndef INCR_CKPT_PROCESS_TCP_ORPHANS_H_
#define INCR_CKPT_PROCESS_TCP_ORPHANS_H_

#include <sys/socket.h>

#include "absl/status/statusor.h"

namespace incr {

// Ends (SOCK_DESTROY: the peer gets a reset) the connections at this local address (sockaddr_in or
// sockaddr_in6, with port; the wildcard means all) that no process holds and that are closing.
// Returns how many. Connections that wait to be accepted belong to nobody either, but
// are not closing: they stay. Needs CAP_NET_ADMIN.
absl::StatusOr<int> DestroyTcpOrphans(const sockaddr* local, socklen_t length);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_TCP_ORPHANS_H_
