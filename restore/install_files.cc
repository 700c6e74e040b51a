// The second half of open_files.h: system calls in the child.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "restore/open_files.h"

namespace incr {
namespace {

constexpr size_t kScratchBytes = 4096;

using FilesById = std::map<uint32_t, const pb::OpenFile*>;

FilesById IndexFiles(const pb::Image& image) {
  FilesById files;
  for (const pb::OpenFile& file : image.open_files()) files.emplace(file.id(), &file);
  return files;
}

class Installer {
 public:
  Installer(RemoteSyscalls& syscalls, const RemoteMemory& memory, RemoteAddr scratch,
            const pb::Process& process, const pb::Image& image)
      : syscalls_(syscalls),
        memory_(memory),
        scratch_(scratch),
        process_(process),
        files_(IndexFiles(image)) {}

  absl::Status PlaceDescriptors(const PreparedFiles& prepared);
  absl::Status EnterDirectory(const PreparedFiles& prepared);
  enum class Watched { kProcFiles, kOthers };
  absl::Status AddWatches(Watched which);
  absl::Status CloseOthers(const std::vector<int>& keep);
  absl::Status TakePosixLocks();
  absl::Status OpenProcFiles();

 private:
  absl::StatusOr<const pb::OpenFile*> FileOf(const pb::FileDescriptor& descriptor) const;
  absl::StatusOr<const pb::OpenFile*> FileAt(uint32_t fd) const;
  absl::Status AddWatch(uint32_t epoll_fd, const pb::EpollWatch& watch);
  absl::Status OpenProcFile(const pb::OpenFile& file);

  RemoteSyscalls& syscalls_;
  const RemoteMemory& memory_;
  const RemoteAddr scratch_;
  const pb::Process& process_;
  const FilesById files_;
};

absl::StatusOr<const pb::OpenFile*> Installer::FileOf(const pb::FileDescriptor& descriptor) const {
  const auto file = files_.find(descriptor.open_file());
  if (file == files_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("fd ", descriptor.fd(), " has no open file"));
  }
  return file->second;
}

absl::StatusOr<const pb::OpenFile*> Installer::FileAt(uint32_t fd) const {
  for (const pb::FileDescriptor& descriptor : process_.descriptors()) {
    if (descriptor.fd() == fd) return FileOf(descriptor);
  }
  return absl::InvalidArgumentError(absl::StrCat("fd ", fd, " is not in the image"));
}

absl::Status Installer::PlaceDescriptors(const PreparedFiles& prepared) {
  for (const pb::FileDescriptor& descriptor : process_.descriptors()) {
    INCR_ASSIGN_OR_RETURN(const pb::OpenFile* file, FileOf(descriptor));
    if (file->kind() == pb::OpenFile::PROC_SELF) continue;
    const auto source = prepared.by_open_file.find(descriptor.open_file());
    if (source == prepared.by_open_file.end() ||
        source->second.get() <= static_cast<int>(descriptor.fd())) {
      return absl::InvalidArgumentError(
          absl::StrCat("fd ", descriptor.fd(), " was not prepared"));
    }
    INCR_RETURN_IF_ERROR(syscalls_
                             .Call(absl::StrCat("dup3(fd ", descriptor.fd(), ")"), SYS_dup3,
                                   source->second.get(), descriptor.fd(),
                                   descriptor.close_on_exec() ? O_CLOEXEC : 0)
                             .status());
  }
  return absl::OkStatus();
}

absl::Status Installer::EnterDirectory(const PreparedFiles& prepared) {
  if (prepared.cwd.ok()) {
    INCR_RETURN_IF_ERROR(syscalls_
                             .Call(absl::StrCat("fchdir(", process_.cwd(), ")"), SYS_fchdir,
                                   prepared.cwd.get())
                             .status());
  }
  return syscalls_.Call("umask", SYS_umask, process_.umask() & 0777).status();
}

absl::Status Installer::AddWatch(uint32_t epoll_fd, const pb::EpollWatch& watch) {
  epoll_event event{};  // 12 bytes: packed on x86-64
  event.events = watch.events();
  event.data.u64 = watch.data();
  INCR_RETURN_IF_ERROR(memory_.Write(scratch_, &event, sizeof event));
  INCR_ASSIGN_OR_RETURN(int64_t result,
                        syscalls_.Raw(SYS_epoll_ctl, {epoll_fd, EPOLL_CTL_ADD, watch.fd(),
                                                      scratch_.value(), 0, 0}));
  if (result == 0) return absl::OkStatus();
  if (result == -EPERM) {
    // A file or /dev/null now stands in for a terminal or pipe; neither can be watched, and both
    // are always ready: the program finds the end when it reads.
    INCR_ASSIGN_OR_RETURN(const pb::OpenFile* file, FileAt(watch.fd()));
    if (file->kind() == pb::OpenFile::STDIO) return absl::OkStatus();
  }
  return ErrnoStatus(static_cast<int>(-result),
                     absl::StrCat("epoll_ctl(fd ", epoll_fd, ", ADD, fd ", watch.fd(), ")"));
}

absl::Status Installer::AddWatches(Watched which) {
  std::map<uint32_t, bool> done;  // by open file: the watches belong to it, not to the descriptor
  for (const pb::FileDescriptor& descriptor : process_.descriptors()) {
    INCR_ASSIGN_OR_RETURN(const pb::OpenFile* file, FileOf(descriptor));
    if (file->kind() != pb::OpenFile::EPOLL || done[file->id()]) continue;
    done[file->id()] = true;
    for (const pb::EpollWatch& watch : file->epoll()) {
      INCR_ASSIGN_OR_RETURN(const pb::OpenFile* watched, FileAt(watch.fd()));
      const bool of_proc = watched->kind() == pb::OpenFile::PROC_SELF;
      if (of_proc != (which == Watched::kProcFiles)) continue;
      INCR_RETURN_IF_ERROR(AddWatch(descriptor.fd(), watch));
    }
  }
  return absl::OkStatus();
}

absl::Status Installer::CloseOthers(const std::vector<int>& keep) {
  std::vector<uint32_t> stay;
  for (const pb::FileDescriptor& descriptor : process_.descriptors()) {
    stay.push_back(descriptor.fd());
  }
  for (int fd : keep) stay.push_back(static_cast<uint32_t>(fd));
  std::sort(stay.begin(), stay.end());
  uint64_t next = 0;  // the lowest number not yet dealt with
  stay.push_back(UINT32_MAX);
  for (uint32_t fd : stay) {
    if (fd > next) {
      INCR_RETURN_IF_ERROR(
          syscalls_.Call("close_range", SYS_close_range, next, fd - 1, 0).status());
    }
    next = uint64_t{fd} + 1;
  }
  return absl::OkStatus();
}

absl::Status Installer::TakePosixLocks() {
  for (const pb::FileDescriptor& descriptor : process_.descriptors()) {
    INCR_ASSIGN_OR_RETURN(const pb::OpenFile* file, FileOf(descriptor));
    for (const pb::FileLock& lock : file->locks()) {
      if (lock.kind() != pb::FileLock::POSIX) continue;
      struct flock request{};
      request.l_type = lock.exclusive() ? F_WRLCK : F_RDLCK;
      request.l_whence = SEEK_SET;
      request.l_start = static_cast<off_t>(lock.start());
      request.l_len = static_cast<off_t>(lock.length());
      INCR_RETURN_IF_ERROR(memory_.Write(scratch_, &request, sizeof request));
      INCR_RETURN_IF_ERROR(
          syscalls_
              .Call(absl::StrCat("lock of fd ", descriptor.fd(), " (", file->file().path(), ")"),
                    SYS_fcntl, descriptor.fd(), F_SETLK, scratch_.value())
              .status());
    }
  }
  return absl::OkStatus();
}

// The child opens it: what is there depends on who looks.
absl::Status Installer::OpenProcFile(const pb::OpenFile& file) {
  const std::string& path = file.file().path();  // "/proc/<pid>/..."
  constexpr size_t kPrefix = sizeof("/proc/") - 1;
  const size_t slash = path.find('/', kPrefix);
  const std::string own =
      absl::StrCat("/proc/self", slash == std::string::npos ? "" : path.substr(slash));
  if (path.compare(0, kPrefix, "/proc/") != 0 || own.size() + 1 > kScratchBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no file of the process's own"));
  }
  INCR_RETURN_IF_ERROR(memory_.Write(scratch_, own.c_str(), own.size() + 1));
  constexpr uint32_t kOpenFlags = O_ACCMODE | O_NONBLOCK | O_DIRECTORY | O_PATH | O_APPEND;
  INCR_ASSIGN_OR_RETURN(uint64_t opened,
                        syscalls_.Call(absl::StrCat("open(", path, ")"), SYS_openat, AT_FDCWD,
                                       scratch_.value(), (file.flags() & kOpenFlags) | O_CLOEXEC));
  if (file.position() != 0 && (file.flags() & O_PATH) == 0) {
    INCR_RETURN_IF_ERROR(syscalls_
                             .Call(absl::StrCat("lseek(", path, ", ", file.position(), ")"),
                                   SYS_lseek, opened, file.position(), SEEK_SET)
                             .status());
  }
  bool stays = false;  // the number is one of the image's own
  for (const pb::FileDescriptor& descriptor : process_.descriptors()) {
    if (descriptor.open_file() != file.id()) continue;
    const int cloexec = descriptor.close_on_exec() ? O_CLOEXEC : 0;
    if (descriptor.fd() == opened) {
      stays = true;
      INCR_RETURN_IF_ERROR(
          syscalls_.Call("F_SETFD", SYS_fcntl, opened, F_SETFD, cloexec ? FD_CLOEXEC : 0).status());
    } else {
      INCR_RETURN_IF_ERROR(
          syscalls_.Call("dup3", SYS_dup3, opened, descriptor.fd(), cloexec).status());
    }
  }
  return stays ? absl::OkStatus() : syscalls_.Call("close", SYS_close, opened).status();
}

absl::Status Installer::OpenProcFiles() {
  for (const auto& [id, file] : files_) {
    if (file->kind() == pb::OpenFile::PROC_SELF) INCR_RETURN_IF_ERROR(OpenProcFile(*file));
  }
  return absl::OkStatus();
}

absl::Status CheckKeep(const pb::Process& process, const std::vector<int>& keep) {
  for (int fd : keep) {
    for (const pb::FileDescriptor& descriptor : process.descriptors()) {
      if (fd < 0 || static_cast<uint32_t>(fd) == descriptor.fd()) {
        return absl::InvalidArgumentError(
            absl::StrCat("descriptor ", fd, " is to be kept, but the image has one there"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status InstallFiles(RemoteSyscalls& syscalls, const RemoteMemory& memory, RemoteAddr scratch,
                          const pb::Process& process, const pb::Image& image,
                          const PreparedFiles& files, const std::vector<int>& keep) {
  INCR_RETURN_IF_ERROR(CheckKeep(process, keep));
  Installer installer(syscalls, memory, scratch, process, image);
  INCR_RETURN_IF_ERROR(installer.PlaceDescriptors(files));
  INCR_RETURN_IF_ERROR(installer.EnterDirectory(files));
  INCR_RETURN_IF_ERROR(installer.AddWatches(Installer::Watched::kOthers));
  return installer.CloseOthers(keep);
}

absl::Status FinishFiles(RemoteSyscalls& syscalls, const RemoteMemory& memory, RemoteAddr scratch,
                         const pb::Process& process, const pb::Image& image) {
  Installer installer(syscalls, memory, scratch, process, image);
  INCR_RETURN_IF_ERROR(installer.OpenProcFiles());
  INCR_RETURN_IF_ERROR(installer.AddWatches(Installer::Watched::kProcFiles));
  return installer.TakePosixLocks();  // last: every close before it would drop them
}

}  // namespace incr
