// prepared_files.h — open files of an image, opened in the restoring process.
#ifndef INCR_CKPT_RESTORE_PREPARED_FILES_H_
#define INCR_CKPT_RESTORE_PREPARED_FILES_H_

#include <cstdint>
#include <map>
#include <vector>

#include "base/scoped_fd.h"
#include "restore/socket_files.h"

namespace incr {

// Open file id -> our descriptor, all >= first_free; none for PROC_SELF. Closed with it.
struct PreparedFiles {
  std::map<uint32_t, ScopedFd> by_open_file;
  std::vector<ScopedFd> helpers;  // peers that must stay open until installed
  ScopedFd cwd, root;             // root: not set, every root so far is "/"
  int first_free = 0;  // greater than every descriptor number of the image
  // Taken out before the program runs, or the files that its sockets serve are gone. Last, so
  // that it goes first: as long as a socket lives, no other file gets its inode.
  SocketFiles socket_files;
};

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_PREPARED_FILES_H_
