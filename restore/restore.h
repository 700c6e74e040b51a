// restore.h — start here: an epoch of a store becomes a live process again.
//
//   plan (pure) -> prepare files -> clone3(set_tid) -> ptrace drives the child:
//   descriptors, unmap everything, vdso, mappings, pages (each hash checked),
//   mm layout, threads, per-thread state -> everything rests stopped, ready to run.
//
// Nothing of the restored program has run when RestoreEpoch returns; Release lets it go.
// On any error the half-built process is killed and nothing else has changed, but for the
// write-back of shared files: it comes last, and only its own failure (disk full) or a caller
// that does not Release leaves them as they were at the epoch, or partly.
//
// Thread safety: none. The calling thread becomes parent and tracer of the new process
// and must make the later calls too.
#ifndef INCR_CKPT_RESTORE_RESTORE_H_
#define INCR_CKPT_RESTORE_RESTORE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"
#include "proto/image.pb.h"
#include "store/store.h"

namespace incr {

struct RestoreOptions {
  // Features for a userfaultfd created in the new process (0: none), so that it can be tracked
  // from before its first instruction.
  uint64_t uffd_features = 0;
  // The calling thread ends before the process may: a parent death signal (PR_SET_PDEATHSIG)
  // would end the process with it, so it is left out, with a warning in the image.
  bool outlives_caller = false;
};

class RestoredProcess {
 public:
  virtual ~RestoredProcess() = default;  // Not released: kills it, and its socket files go.
  virtual pid_t pid() const = 0;
  virtual const pb::Image& image() const = 0;
  virtual ScopedFd TakeUserfaultfd() = 0;
  // Detaches every thread: the program runs. It is then an ordinary child of the caller.
  virtual absl::Status Release() = 0;
};

// kNotFound: no such job or epoch. kAlreadyExists: the pid or a tid is taken (names it and its
// command). kFailedPrecondition: a file is missing or another one, other CPU features,
// other vdso; names it. kDataLoss: a page failed its hash.
absl::StatusOr<std::unique_ptr<RestoredProcess>> RestoreEpoch(const StoreReader& store,
                                                              absl::string_view job,
                                                              uint64_t epoch,
                                                              const RestoreOptions& options);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_RESTORE_H_
