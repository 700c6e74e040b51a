// remote_addr.h — an address in another process. Never dereferenced here.
#ifndef INCR_CKPT_PROCESS_REMOTE_ADDR_H_
#define INCR_CKPT_PROCESS_REMOTE_ADDR_H_

#include <cstdint>

#include "base/strong_int.h"

namespace incr {

struct RemoteAddrTag;
using RemoteAddr = StrongInt<RemoteAddrTag, uint64_t>;

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_REMOTE_ADDR_H_
