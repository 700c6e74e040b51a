// check.h — what must be true of this machine before a restore touches anything.
//
// Each check fails with kFailedPrecondition (kAlreadyExists for a taken pid) and names
// what differs. Thread-safe; changes nothing.
#ifndef INCR_CKPT_RESTORE_CHECK_H_
#define INCR_CKPT_RESTORE_CHECK_H_

#include <sys/stat.h>

#include <string>

#include "absl/status/status.h"
#include "proto/image.pb.h"

namespace incr {

// The CPU state that is enabled, and the vdso's code.
absl::Status CheckMachine(const pb::Machine& machine, const pb::Process& process);

// We are of the process's user and group: credentials are not restored.
absl::Status CheckUser(const pb::Process& process);

// No process or thread has one of the ids; names the one that does and its command.
absl::Status CheckIdsFree(const pb::Process& process);

// `found`, a statx of `identity.path` with STATX_BTIME, is the saved file. `same_content`: size and
// modification time must be the saved ones too; else it must not be shorter than `min_size`.
absl::Status CheckFileIdentity(const pb::FileIdentity& identity, const struct statx& found,
                               bool same_content, uint64_t min_size);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_CHECK_H_
