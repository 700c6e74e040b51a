// open_files.h — the image's open files come back.
//
// Two halves: everything that can fail for want of a file or an address is opened in
// the restoring process first, at descriptor numbers above all of the image's; the child
// inherits them through fork and moves them into place.
//
//   PrepareFiles -> fork -> InstallFiles in the child -> ... -> FinishFiles -> run
//
// Socket files that PrepareFiles made go with PreparedFiles.socket_files unless kept; those
// that were there come back.
//
// PreparedFiles is closed before the program runs, or the ends of pipes that it holds keep
// the program from ever seeing an end of file.
//
// Not thread-safe. An unknown kind or nonsense in the image is kInvalidArgument.
#ifndef INCR_CKPT_RESTORE_OPEN_FILES_H_
#define INCR_CKPT_RESTORE_OPEN_FILES_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "process/remote_memory.h"
#include "process/remote_syscalls.h"
#include "proto/image.pb.h"
#include "restore/prepared_files.h"

namespace incr {

// The number from which on none is a descriptor of the image; raises this process's soft
// RLIMIT_NOFILE if they need it.
absl::StatusOr<int> ReserveDescriptors(const pb::Image& image, const pb::Process& process);

// kFailedPrecondition names the file that is missing or another one, or the address in use.
// Calls ReserveDescriptors. Changes the file system, so what may fail without it comes before.
absl::StatusOr<PreparedFiles> PrepareFiles(const pb::Image& image, const pb::Process& process);

// In the child (stopped, driven through `syscalls`, fork of this process): dup3 each descriptor
// into place, epoll watches, cwd, umask; then close everything that the image does not
// have, except `keep`. `scratch`: at least 4096 writable bytes in the child.
// `keep` names no descriptor of the image (kInvalidArgument).
absl::Status InstallFiles(RemoteSyscalls& syscalls, const RemoteMemory& memory, RemoteAddr scratch,
                          const pb::Process& process, const pb::Image& image,
                          const PreparedFiles& files, const std::vector<int>& keep);

// What must come last, when nobody opens or closes files in the child any more and its memory
// and threads are there: POSIX locks (a process loses its locks on a file when it closes *any*
// descriptor of that file), and files of its own under /proc, which show what it is now.
absl::Status FinishFiles(RemoteSyscalls& syscalls, const RemoteMemory& memory, RemoteAddr scratch,
                         const pb::Process& process, const pb::Image& image);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_OPEN_FILES_H_
