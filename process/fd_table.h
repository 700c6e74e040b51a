// fd_table.h — open descriptors of a process as /proc/<pid>/fd and fdinfo show them.
//
// Meant for a frozen process: about 5 us a descriptor (readlink, stat, fdinfo).
// All functions are thread-safe.
#ifndef INCR_CKPT_PROCESS_FD_TABLE_H_
#define INCR_CKPT_PROCESS_FD_TABLE_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "process/process_handle.h"

namespace incr {

struct FdEntry {
  int fd = -1;
  std::string link;    // readlink: "/a/file", "/a/file (deleted)", "socket:[71]", "pipe:[72]", "anon_inode:[eventfd]"
  uint64_t position = 0;  // fdinfo "pos:"
  uint32_t flags = 0;     // fdinfo "flags:" (octal there); O_CLOEXEC among them is the descriptor's
  std::string fdinfo;     // whole text; kind-specific lines are parsed by their users
  struct stat stat{};     // of the open file; of sockets and nameless pipes only st_mode and st_ino
};

// By number. Best read while frozen; an fd that closes meanwhile is left out.
absl::StatusOr<std::vector<FdEntry>> ReadFdTable(const ProcessHandle& process);

// kcmp(KCMP_FILES, KCMP_FS): does the thread use its process's descriptors, working directory and
// umask? (unshare(2) can part it from them.)
absl::StatusOr<bool> SharesFilesAndDirectories(const ProcessHandle& process, pid_t tid);

// kcmp(KCMP_FILE): do both descriptors of the process share an open file description?
absl::StatusOr<bool> SameOpenFile(const ProcessHandle& process, int fd_a, int fd_b);

// The same as an order (-1, 0, 1) that is total while the process is frozen, so that n
// descriptors are grouped by a sort and not by n^2 comparisons.
absl::StatusOr<int> CompareOpenFiles(const ProcessHandle& process, int fd_a, int fd_b);

// kcmp(KCMP_EPOLL_TFD): is the file that `epoll_fd` watches under number `fd` the one that
// descriptor `fd` is now? The number is kept by epoll when the descriptor is closed.
absl::StatusOr<bool> EpollWatchIsOf(const ProcessHandle& process, int epoll_fd, int fd);

// Is this end of a pipe clutter from whoever started the process (a build tool's or test
// runner's pipe that every descendant inherits), and no channel of its own? So it is if the
// caller or an ancestor has the same end under the same number, and not the other end too.
bool InheritedPipeEnd(const ProcessHandle& process, const FdEntry& entry);

// Text behind "name:" on a line of its own in fdinfo or /proc/<pid>/status, blanks
// stripped; "" if there is none.
absl::string_view FdinfoField(absl::string_view text, absl::string_view name);

// Where names start and what new files get.
struct FsContext {
  std::string cwd;   // readlink; ends in " (deleted)" if it is gone
  std::string root;
  struct stat cwd_stat{}, root_stat{};
  uint32_t umask = 0;
  bool same_network = true;  // its network namespace is the caller's
};
absl::StatusOr<FsContext> ReadFsContext(const ProcessHandle& process);
// Only its working directory anew.
absl::Status ReadWorkingDirectory(const ProcessHandle& process, FsContext* context);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_FD_TABLE_H_
