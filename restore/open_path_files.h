// open_path_files.h — files found again by path: regular files, directories, devices, FIFOs,
// and the restore command's own 0, 1 and 2.
//
// Nothing is ever created or truncated. A file's content is not rolled back: a program
// goes on writing at its old position into what the file holds now.
#ifndef INCR_CKPT_RESTORE_OPEN_PATH_FILES_H_
#define INCR_CKPT_RESTORE_OPEN_PATH_FILES_H_

#include <vector>

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// REGULAR and DIRECTORY. Refused: missing, another inode (or the same number with another
// birth time), and a file that has become shorter than the program knew it: for
// readers than their position, for writers than its size then.
absl::Status OpenPathFile(FileBuilder& builder, const pb::OpenFile& file);

// CHAR_DEVICE: the same device number at the same path.
absl::Status OpenCharDevice(FileBuilder& builder, const pb::OpenFile& file);

// FIFO: never blocks, whoever is on the other side. Content goes back only into an
// empty pipe: another process may have kept it alive.
absl::Status OpenFifo(FileBuilder& builder, const pb::OpenFile& file);

// STDIO: this process's descriptor `stdio_fd`; /dev/null if that is closed. The
// terminal or pipe is shared with the shell, so a differing O_NONBLOCK goes to an
// open file description of our own; only a socket, which cannot be opened again, is changed itself.
absl::Status OpenStdio(FileBuilder& builder, const pb::OpenFile& file);

// Locks that belong to the open file description: flock and F_OFD_SETLK. POSIX locks belong to the
// process and are taken in the child.
absl::Status TakeDescriptionLocks(const FileBuilder& builder, const pb::OpenFile& file, int fd);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_OPEN_PATH_FILES_H_
