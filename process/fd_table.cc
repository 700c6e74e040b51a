#include "process/fd_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using ScopedDir = std::unique_ptr<DIR, DirCloser>;

absl::StatusOr<ScopedDir> OpenDir(const std::string& path) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return ErrnoStatus(absl::StrCat("opendir(", path, ")"));
  return ScopedDir(dir);
}

// A descriptor that closes between readdir and here is nobody's error.
bool Vanished(int error) { return error == ENOENT || error == ESRCH; }

// fdinfo is one record of a seq_file: it comes whole, so a short read is its end. Not
// ReadWholeFd, whose second read and 16 KiB buffers add up over ten thousand descriptors.
absl::Status ReadInto(int fd, const std::string& what, std::string* text) {
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(absl::StrCat("read(", what, ")"));
    text->append(buffer, n);
    if (static_cast<size_t>(n) < sizeof buffer) return absl::OkStatus();
  }
}

absl::Status ParseCommonFields(const std::string& what, FdEntry* entry) {
  const absl::string_view flags = FdinfoField(entry->fdinfo, "flags");
  uint64_t octal = 0;
  for (char c : flags) {
    if (c < '0' || c > '7') return absl::InternalError(absl::StrCat(what, ": flags: ", flags));
    octal = octal * 8 + (c - '0');
  }
  const absl::string_view position = FdinfoField(entry->fdinfo, "pos");
  int64_t signed_position = 0;
  if (flags.empty() || !absl::SimpleAtoi(position, &signed_position)) {
    return absl::InternalError(absl::StrCat(what, ": no flags or pos"));
  }
  entry->flags = static_cast<uint32_t>(octal);
  entry->position = static_cast<uint64_t>(signed_position);
  return absl::OkStatus();
}

// "socket:[71]" and "pipe:[72]" say all that stat() would, and save its 4 us: a server has
// thousands. (The link of a file with a path begins with a slash.)
bool StatFromLink(absl::string_view link, struct stat* out) {
  const bool socket = absl::ConsumePrefix(&link, "socket:[");
  if (!socket && !absl::ConsumePrefix(&link, "pipe:[")) return false;
  uint64_t inode = 0;
  if (!absl::ConsumeSuffix(&link, "]") || !absl::SimpleAtoi(link, &inode)) return false;
  out->st_mode = socket ? S_IFSOCK | 0777 : S_IFIFO | 0600;
  out->st_ino = inode;
  return true;
}

// nullopt: it closed meanwhile.
absl::StatusOr<std::optional<FdEntry>> ReadEntry(int fd_dir, int fdinfo_dir, const char* name,
                                                 const std::string& base) {
  FdEntry entry;
  if (!absl::SimpleAtoi(name, &entry.fd)) return std::nullopt;  // "." and ".."
  char link[PATH_MAX + 64];
  const ssize_t length = ::readlinkat(fd_dir, name, link, sizeof link);
  if (length < 0 && Vanished(errno)) return std::nullopt;
  if (length < 0) return ErrnoStatus(absl::StrCat("readlink(", base, "/fd/", name, ")"));
  entry.link.assign(link, length);

  if (!StatFromLink(entry.link, &entry.stat) && ::fstatat(fd_dir, name, &entry.stat, 0) != 0) {
    if (Vanished(errno)) return std::nullopt;
    return ErrnoStatus(absl::StrCat("stat(", base, "/fd/", name, ")"));
  }
  const std::string what = absl::StrCat(base, "/fdinfo/", name);
  ScopedFd fdinfo(::openat(fdinfo_dir, name, O_RDONLY | O_CLOEXEC));
  if (!fdinfo.ok()) {
    if (Vanished(errno)) return std::nullopt;
    return ErrnoStatus(absl::StrCat("open(", what, ")"));
  }
  INCR_RETURN_IF_ERROR(ReadInto(fdinfo.get(), what, &entry.fdinfo));
  INCR_RETURN_IF_ERROR(ParseCommonFields(what, &entry));
  return entry;
}

absl::StatusOr<int> Kcmp(const ProcessHandle& process, int type, uint64_t a, uint64_t b,
                         absl::string_view what) {
  const long order = ::syscall(SYS_kcmp, process.pid(), process.pid(), type, a, b);
  if (order < 0) return ErrnoStatus(absl::StrCat("kcmp(", process.pid(), ", ", what, ")"));
  return static_cast<int>(order);
}

// Which ends of the pipe a process holds.
struct PipeEnds {
  bool reader = false, writer = false;
  bool same_end_same_number = false;
};

PipeEnds FindPipeEnds(const std::string& fd_directory, const FdEntry& entry) {
  PipeEnds ends;
  const auto same_number = ReadLink(absl::StrCat(fd_directory, "/", entry.fd));
  if (!same_number.ok() || *same_number != entry.link) return ends;
  auto dir = OpenDir(fd_directory);
  if (!dir.ok()) return ends;  // not ours to read: it says nothing
  const bool want_writer = (entry.flags & O_ACCMODE) == O_WRONLY;
  while (const dirent* item = ::readdir(dir->get())) {
    char link[64];
    const ssize_t length = ::readlinkat(::dirfd(dir->get()), item->d_name, link, sizeof link);
    if (length < 0 || absl::string_view(link, length) != entry.link) continue;
    struct stat self{};  // of the link: its permissions are the access mode
    if (::fstatat(::dirfd(dir->get()), item->d_name, &self, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const bool reader = (self.st_mode & S_IRUSR) != 0, writer = (self.st_mode & S_IWUSR) != 0;
    ends.reader |= reader;
    ends.writer |= writer;
    ends.same_end_same_number |=
        absl::StrCat(entry.fd) == item->d_name && (want_writer ? writer : reader);
  }
  return ends;
}

absl::Status StatLink(const std::string& path, struct stat* out) {
  if (::stat(path.c_str(), out) != 0) return ErrnoStatus(absl::StrCat("stat(", path, ")"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<FdEntry>> ReadFdTable(const ProcessHandle& process) {
  const std::string base = process.ProcPath("");
  const std::string root = base.substr(0, base.find_last_not_of('/') + 1);
  INCR_ASSIGN_OR_RETURN(ScopedDir fds, OpenDir(process.ProcPath("fd")));
  INCR_ASSIGN_OR_RETURN(ScopedFd fdinfos,
                        OpenFile(process.ProcPath("fdinfo"), O_RDONLY | O_DIRECTORY));
  std::vector<FdEntry> table;
  for (;;) {
    errno = 0;
    const dirent* item = ::readdir(fds.get());
    if (item == nullptr && errno != 0) return ErrnoStatus(absl::StrCat("readdir(", root, "/fd)"));
    if (item == nullptr) break;
    INCR_ASSIGN_OR_RETURN(
        std::optional<FdEntry> entry,
        ReadEntry(::dirfd(fds.get()), fdinfos.get(), item->d_name, root));
    if (entry.has_value()) table.push_back(std::move(*entry));
  }
  std::sort(table.begin(), table.end(),
            [](const FdEntry& a, const FdEntry& b) { return a.fd < b.fd; });
  return table;
}

absl::StatusOr<int> CompareOpenFiles(const ProcessHandle& process, int fd_a, int fd_b) {
  INCR_ASSIGN_OR_RETURN(int order, Kcmp(process, KCMP_FILE, fd_a, fd_b,
                                        absl::StrCat("fd ", fd_a, ", fd ", fd_b)));
  return order == 0 ? 0 : order == 1 ? -1 : 1;
}

absl::StatusOr<bool> SharesFilesAndDirectories(const ProcessHandle& process, pid_t tid) {
  for (const int type : {KCMP_FILES, KCMP_FS}) {
    const long order = ::syscall(SYS_kcmp, process.pid(), tid, type, 0, 0);
    if (order < 0) return ErrnoStatus(absl::StrCat("kcmp(", process.pid(), ", ", tid, ")"));
    if (order != 0) return false;
  }
  return true;
}

absl::StatusOr<bool> SameOpenFile(const ProcessHandle& process, int fd_a, int fd_b) {
  INCR_ASSIGN_OR_RETURN(int order, CompareOpenFiles(process, fd_a, fd_b));
  return order == 0;
}

absl::StatusOr<bool> EpollWatchIsOf(const ProcessHandle& process, int epoll_fd, int fd) {
  kcmp_epoll_slot slot = {static_cast<uint32_t>(epoll_fd), static_cast<uint32_t>(fd), 0};
  INCR_ASSIGN_OR_RETURN(int order, Kcmp(process, KCMP_EPOLL_TFD, fd,
                                        reinterpret_cast<uint64_t>(&slot),
                                        absl::StrCat("fd ", fd, " in epoll ", epoll_fd)));
  return order == 0;
}

bool InheritedPipeEnd(const ProcessHandle& process, const FdEntry& entry) {
  constexpr int kMaxAncestors = 16;
  const auto is_clutter_of = [&](const std::string& fd_directory) {
    const PipeEnds ends = FindPipeEnds(fd_directory, entry);
    return ends.same_end_same_number && ends.reader != ends.writer;
  };
  if (is_clutter_of("/proc/self/fd")) return true;
  std::string status_path = process.ProcPath("status");
  for (int i = 0; i < kMaxAncestors; ++i) {
    const auto status = ReadWholeFile(status_path);
    pid_t parent = 0;
    if (!status.ok() || !absl::SimpleAtoi(FdinfoField(*status, "PPid"), &parent) || parent == 0) {
      return false;
    }
    if (is_clutter_of(absl::StrCat("/proc/", parent, "/fd"))) return true;
    status_path = absl::StrCat("/proc/", parent, "/status");
  }
  return false;
}

absl::string_view FdinfoField(absl::string_view text, absl::string_view name) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const absl::string_view line = text.substr(0, end);
    text = end == absl::string_view::npos ? absl::string_view() : text.substr(end + 1);
    if (line.size() > name.size() && line[name.size()] == ':' &&
        line.substr(0, name.size()) == name) {
      return absl::StripAsciiWhitespace(line.substr(name.size() + 1));
    }
  }
  return absl::string_view();
}

absl::Status ReadWorkingDirectory(const ProcessHandle& process, FsContext* context) {
  INCR_ASSIGN_OR_RETURN(context->cwd, ReadLink(process.ProcPath("cwd")));
  return StatLink(process.ProcPath("cwd"), &context->cwd_stat);
}

absl::StatusOr<FsContext> ReadFsContext(const ProcessHandle& process) {
  FsContext context;
  INCR_RETURN_IF_ERROR(ReadWorkingDirectory(process, &context));
  INCR_ASSIGN_OR_RETURN(context.root, ReadLink(process.ProcPath("root")));
  INCR_RETURN_IF_ERROR(StatLink(process.ProcPath("root"), &context.root_stat));
  INCR_ASSIGN_OR_RETURN(std::string net, ReadLink(process.ProcPath("ns/net")));
  INCR_ASSIGN_OR_RETURN(std::string our_net, ReadLink("/proc/self/ns/net"));
  context.same_network = net == our_net;
  INCR_ASSIGN_OR_RETURN(std::string status, ReadWholeFile(process.ProcPath("status")));
  for (char c : FdinfoField(status, "Umask")) context.umask = context.umask * 8 + (c - '0');
  return context;
}

}  // namespace incr
