#include "checkpoint/capture_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "checkpoint/capture_anon_files.h"
#include "checkpoint/capture_path_files.h"
#include "checkpoint/capture_pipes.h"
#include "checkpoint/capture_sockets.h"
#include "checkpoint/open_description.h"
#include "checkpoint/text.h"
#include "process/fd_table.h"

namespace incr {
namespace {

absl::Status CaptureOpenFile(const FileCapture& capture, SocketCapture& sockets,
                             const OpenDescription& description, pb::OpenFile* file,
                             pb::Image* image) {
  const FdEntry& entry = description.first();
  file->set_flags(entry.flags & ~static_cast<uint32_t>(O_CLOEXEC));
  INCR_RETURN_IF_ERROR(CaptureLocks(description, file));  // first: a lease sets O_ASYNC too
  if ((entry.flags & O_ASYNC) != 0) {
    return Unsupported(description, "signal-driven I/O (O_ASYNC)");
  }
  if (absl::StartsWith(entry.link, "anon_inode:")) {
    return CaptureAnonFile(capture, description, file, image);
  }
  if ((entry.flags & O_PATH) != 0) return CapturePathFile(capture, description, file);
  switch (entry.stat.st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
      return CapturePathFile(capture, description, file);
    case S_IFCHR:
      return CaptureCharDevice(capture, description, file);
    case S_IFIFO:
      return absl::StartsWith(entry.link, "pipe:[")
                 ? CapturePipe(capture, description, file, image)
                 : CaptureFifo(capture, description, file, image);
    case S_IFSOCK:
      return sockets.Capture(description, file);
    case S_IFBLK:
      return Unsupported(description, "a block device");
    default:
      return Unsupported(description, "unknown kind of file");
  }
}

// Gathers files and descriptors; unsupported things are collected, not returned, so that
// one error names them all.
class ImageFiles {
 public:
  ImageFiles(pb::Process* process, pb::Image* image) : process_(process), image_(image) {}

  void Add(const OpenDescription& description, pb::OpenFile file) {
    if (file.kind() != pb::OpenFile::STDIO) {
      const uint32_t id = AddFile(std::move(file));
      for (const FdEntry* entry : description.descriptors) ids_[entry] = id;
      return;
    }
    // fd 0..2 each take the restore command's descriptor of the same number, even if they
    // were one open file: on a terminal they are, and the restore's output may be redirected.
    uint32_t others = 0;
    for (const FdEntry* entry : description.descriptors) {
      if (entry->fd <= 2) {
        pb::OpenFile own = file;
        own.set_stdio_fd(static_cast<uint32_t>(entry->fd));
        ids_[entry] = AddFile(std::move(own));
      } else {
        if (others == 0) others = AddFile(file);
        ids_[entry] = others;
      }
    }
  }

  void LeaveOut(absl::Status why) { unsupported_.push_back(std::string(why.message())); }

  absl::Status Finish(const std::vector<FdEntry>& table, bool allow_unsupported) {
    if (!unsupported_.empty() && !allow_unsupported) {
      return absl::UnimplementedError(absl::StrJoin(unsupported_, "; "));
    }
    for (const std::string& text : unsupported_) {
      image_->add_warnings(absl::StrCat(text, "; left out"));
    }
    for (const FdEntry& entry : table) {
      const auto id = ids_.find(&entry);
      if (id == ids_.end()) continue;
      pb::FileDescriptor* descriptor = process_->add_descriptors();
      descriptor->set_fd(static_cast<uint32_t>(entry.fd));
      descriptor->set_close_on_exec((entry.flags & O_CLOEXEC) != 0);
      descriptor->set_open_file(id->second);
    }
    DropWatchesOfMissing();
    return absl::OkStatus();
  }

 private:
  uint32_t AddFile(pb::OpenFile file) {
    const uint32_t id = static_cast<uint32_t>(image_->open_files_size()) + 1;
    file.set_id(id);
    *image_->add_open_files() = std::move(file);
    return id;
  }

  // An epoll cannot watch what was left out.
  void DropWatchesOfMissing() {
    if (unsupported_.empty()) return;
    std::set<uint32_t> present;
    for (const auto& descriptor : process_->descriptors()) present.insert(descriptor.fd());
    for (pb::OpenFile& file : *image_->mutable_open_files()) {
      for (int i = file.epoll_size() - 1; i >= 0; --i) {
        if (!present.count(file.epoll(i).fd())) file.mutable_epoll()->DeleteSubrange(i, 1);
      }
    }
  }

  pb::Process* process_;
  pb::Image* image_;
  std::map<const FdEntry*, uint32_t> ids_;
  std::vector<std::string> unsupported_;
};

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

void CaptureFsContext(const FsContext& fs, ImageFiles& files, pb::Process* process) {
  process->set_umask(fs.umask);
  process->set_cwd(fs.cwd);
  process->set_root(fs.root);
  struct stat now{};
  if (::stat("/", &now) != 0 || fs.root != "/" || !SameFile(now, fs.root_stat)) {
    files.LeaveOut(absl::UnimplementedError(
        absl::StrCat("root directory ", PrintableUtf8(fs.root), " is not ours (chroot or mount namespace)")));
    process->set_root("/");
  }
  if (::stat(fs.cwd.c_str(), &now) != 0 || !SameFile(now, fs.cwd_stat)) {
    files.LeaveOut(absl::UnimplementedError(
        absl::StrCat("working directory ", PrintableUtf8(fs.cwd),
                     " is deleted, or cannot be found by its path")));
    process->set_cwd("/");
  }
}

}  // namespace

absl::Status CaptureFiles(const ProcessHandle& target, bool allow_unsupported,
                          pb::Process* process, pb::Image* image) {
  FilesKnown known;
  INCR_ASSIGN_OR_RETURN(known.fs, ReadFsContext(target));
  return CaptureFiles(target, std::move(known), allow_unsupported, process, image);
}

absl::Status CaptureFiles(const ProcessHandle& target, FilesKnown known, bool allow_unsupported,
                          pb::Process* process, pb::Image* image) {
  INCR_RETURN_IF_ERROR(ReadWorkingDirectory(target, &known.fs));
  INCR_ASSIGN_OR_RETURN(std::vector<FdEntry> table, ReadFdTable(target));
  INCR_ASSIGN_OR_RETURN(std::vector<OpenDescription> descriptions,
                        GroupByOpenFile(target, table));
  const FileCapture capture{target, table, descriptions, known.fs, known.inherited_pipes};
  SocketCapture sockets(capture, image);
  ImageFiles files(process, image);
  CaptureFsContext(known.fs, files, process);
  for (const OpenDescription& description : descriptions) {
    pb::OpenFile file;
    const absl::Status captured = CaptureOpenFile(capture, sockets, description, &file, image);
    if (captured.ok()) {
      files.Add(description, std::move(file));
    } else if (absl::IsUnimplemented(captured)) {
      files.LeaveOut(captured);
    } else {
      return captured;
    }
  }
  sockets.Finish();
  return files.Finish(table, allow_unsupported);
}

}  // namespace incr
