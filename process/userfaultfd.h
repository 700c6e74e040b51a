// userfaultfd.h — a userfaultfd of our own process or, taken with pidfd_getfd, of another's.
//
// A userfaultfd belongs to the mm of the process that created it, so every call here
// acts on that one, wherever the descriptor is. Thread-safe.
#ifndef INCR_CKPT_PROCESS_USERFAULTFD_H_
#define INCR_CKPT_PROCESS_USERFAULTFD_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"

namespace incr {

// For this process (probes, tests, programs that help to be tracked). userfaultfd(2), and where
// that is not permitted /dev/userfaultfd. `features`: UFFD_FEATURE_*.
absl::StatusOr<ScopedFd> NewUserfaultfd(uint64_t features);

// The same; if that is not permitted, one with UFFD_USER_MODE_ONLY, which every user may have. With
// WP_ASYNC there is no difference: the kernel resolves write faults by itself, also those of read(2)
// and its like, and never asks whose they are (handle_userfault() is not reached).
absl::StatusOr<ScopedFd> NewUserModeUserfaultfd(uint64_t features);

// UFFDIO_API. kInvalidArgument: this kernel lacks one of `features`.
absl::Status AgreeOnFeatures(int uffd, uint64_t features);

// UFFDIO_REGISTER, write-protect mode, for every mapping inside `range`; gaps are allowed.
// All or nothing. Repeating it is harmless and cheap. Fails with kInvalidArgument for
// vdso and vvar, kPermissionDenied for a shared mapping of a read-only file, kAlreadyExists
// (EBUSY) where another userfaultfd owns a mapping.
absl::Status RegisterWriteProtect(int uffd, PageRange range);

// UFFDIO_WRITEPROTECT: arms all of `range`, or disarms it and wakes who waits for that. Holes of
// anonymous memory are armed with UFFD_FEATURE_WP_UNPOPULATED only. kNotFound: there is a mapping in it
// that is not registered for this (in parts it may be done then), or the memory is gone. It does not ask
// by whose userfaultfd. Before 6.4 `range` must lie in one mapping.
absl::Status WriteProtect(int uffd, PageRange range, bool protect);

// --- Faults that are served by us (no UFFD_FEATURE_WP_ASYNC) ---

// Pages whose writers wait, up to `capacity`, one for each writer; 0: nobody waits. Never blocks if the
// userfaultfd is O_NONBLOCK, as ours are (poll() needs that too).
absl::StatusOr<size_t> ReadWriteFaults(int uffd, uint64_t* pages, size_t capacity);

// UFFDIO_WAKE: who waits for a page of `range` tries again.
absl::Status WakeWriters(int uffd, PageRange range);

// Is the mapping registered that `page` lies in, with whomever? The page must have content: the
// question is a UFFDIO_ZEROPAGE, which leaves what is there alone. False where nothing is mapped.
absl::StatusOr<bool> IsRegistered(int uffd, uint64_t page);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_USERFAULTFD_H_
