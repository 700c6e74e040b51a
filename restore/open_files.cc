#include "restore/open_files.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "restore/dropped_connection.h"
#include "restore/file_builder.h"
#include "restore/open_anon_files.h"
#include "restore/open_path_files.h"
#include "restore/open_pipes.h"
#include "restore/open_sockets.h"

namespace incr {
namespace {

constexpr uint32_t kMaxFd = 1u << 30;  // the kernel's own largest fs.nr_open
constexpr rlim_t kSpareFds = 64;       // for what is open only while files are opened

struct FdNeeds {
  int first_free = 0;
  rlim_t limit = 0;  // RLIMIT_NOFILE that holds everything
};

absl::StatusOr<FdNeeds> CountFds(const pb::Image& image, const pb::Process& process) {
  uint32_t highest = 2;
  for (const pb::FileDescriptor& descriptor : process.descriptors()) {
    if (descriptor.fd() >= kMaxFd) {
      return absl::InvalidArgumentError(absl::StrCat("descriptor number ", descriptor.fd()));
    }
    highest = std::max(highest, descriptor.fd());
  }
  const rlim_t files = static_cast<rlim_t>(image.open_files_size());
  return FdNeeds{static_cast<int>(highest) + 1, highest + 1 + 2 * files + kSpareFds};
}

absl::Status RaiseFdLimit(const FdNeeds& needs) {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoStatus("getrlimit(RLIMIT_NOFILE)");
  // What we have open above first_free ourselves counts too; double is room enough.
  const rlim_t wanted = needs.limit;
  if (limit.rlim_cur >= wanted) return absl::OkStatus();
  if (limit.rlim_max < wanted) {
    return absl::FailedPreconditionError(
        absl::StrCat("the process has descriptors up to ", needs.first_free - 1,
                     ", this one may have only ", limit.rlim_max, " (ulimit -Hn)"));
  }
  limit.rlim_cur = wanted;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoStatus("setrlimit(RLIMIT_NOFILE)");
  return absl::OkStatus();
}

// Every descriptor has a number of its own and an open file, every watch a descriptor.
absl::Status CheckReferences(const pb::Image& image, const pb::Process& process) {
  std::set<uint32_t> files, fds;
  for (const pb::OpenFile& file : image.open_files()) {
    if (file.id() == 0 || !files.insert(file.id()).second) {
      return absl::InvalidArgumentError(absl::StrCat("open file ", file.id(), " is there twice"));
    }
  }
  for (const pb::FileDescriptor& descriptor : process.descriptors()) {
    if (!fds.insert(descriptor.fd()).second || !files.count(descriptor.open_file())) {
      return absl::InvalidArgumentError(
          absl::StrCat("fd ", descriptor.fd(), " is there twice, or has no open file ",
                       descriptor.open_file()));
    }
  }
  for (const pb::OpenFile& file : image.open_files()) {
    for (const pb::EpollWatch& watch : file.epoll()) {
      if (!fds.count(watch.fd())) {
        return absl::InvalidArgumentError(absl::StrCat(
            "open file ", file.id(), " (EPOLL) watches fd ", watch.fd(), ", which is not open"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status OpenWorkingDirectory(const pb::Process& process, PreparedFiles* files) {
  if (!process.root().empty() && process.root() != "/") {
    return absl::FailedPreconditionError(
        absl::StrCat("root directory ", process.root(), " is not supported yet"));
  }
  if (process.cwd().empty()) return absl::OkStatus();
  if (process.cwd().find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("working directory with a NUL in its name");
  }
  ScopedFd low(::open(process.cwd().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!low.ok()) {
    return absl::FailedPreconditionError(
        ErrnoStatus(absl::StrCat("working directory ", process.cwd())).message());
  }
  files->cwd.reset(::fcntl(low.get(), F_DUPFD_CLOEXEC, files->first_free));
  if (!files->cwd.ok()) return ErrnoStatus("F_DUPFD(working directory)");
  return absl::OkStatus();
}

using Group = std::vector<const pb::OpenFile*>;

absl::Status OpenOne(FileBuilder& builder, ConnectionDropper& dropper, const pb::OpenFile& file) {
  switch (file.kind()) {
    case pb::OpenFile::REGULAR:
    case pb::OpenFile::DIRECTORY:
      return OpenPathFile(builder, file);
    case pb::OpenFile::CHAR_DEVICE:
      return OpenCharDevice(builder, file);
    case pb::OpenFile::FIFO:
      return OpenFifo(builder, file);
    case pb::OpenFile::PROC_SELF:
      return absl::OkStatus();  // FinishFiles
    case pb::OpenFile::INHERITED_PIPE:
      return OpenInheritedPipe(builder, file);
    case pb::OpenFile::STDIO:
      return OpenStdio(builder, file);
    case pb::OpenFile::EVENTFD:
      return OpenEventfd(builder, file);
    case pb::OpenFile::EPOLL:
      return OpenEpoll(builder, file);
    case pb::OpenFile::TIMERFD:
      return OpenTimerfd(builder, file);
    case pb::OpenFile::SIGNALFD:
      return OpenSignalfd(builder, file);
    case pb::OpenFile::LISTENING_SOCKET:
      return OpenListeningSocket(builder, file);
    case pb::OpenFile::DROPPED_CONNECTION:
      return dropper.Open(file);
    case pb::OpenFile::DATAGRAM_SOCKET:
      return OpenDatagramSocket(builder, file);
    case pb::OpenFile::UNBOUND_SOCKET:
      return OpenUnboundSocket(builder, file);
    default:
      return builder.Malformed(file, absl::StrCat("is of unknown kind ", file.kind()));
  }
}

absl::Status OpenAll(const pb::Image& image, FileBuilder& builder) {
  std::map<uint64_t, Group> pipes, pairs;
  ConnectionDropper dropper(builder);
  for (const pb::OpenFile& file : image.open_files()) {
    if (file.kind() == pb::OpenFile::PIPE) {
      pipes[file.pipe().pipe_id()].push_back(&file);
    } else if (file.kind() == pb::OpenFile::SOCKET_PAIR) {
      pairs[file.socket().pair_id()].push_back(&file);
    } else {
      INCR_RETURN_IF_ERROR(OpenOne(builder, dropper, file));
    }
  }
  for (const auto& [id, ends] : pipes) INCR_RETURN_IF_ERROR(OpenPipe(builder, ends));
  for (const auto& [id, ends] : pairs) INCR_RETURN_IF_ERROR(OpenSocketPair(builder, ends));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int> ReserveDescriptors(const pb::Image& image, const pb::Process& process) {
  INCR_RETURN_IF_ERROR(CheckReferences(image, process));
  INCR_ASSIGN_OR_RETURN(FdNeeds needs, CountFds(image, process));
  INCR_RETURN_IF_ERROR(RaiseFdLimit(needs));
  return needs.first_free;
}

absl::StatusOr<PreparedFiles> PrepareFiles(const pb::Image& image, const pb::Process& process) {
  PreparedFiles files;
  INCR_ASSIGN_OR_RETURN(files.first_free, ReserveDescriptors(image, process));
  INCR_RETURN_IF_ERROR(OpenWorkingDirectory(process, &files));
  FileBuilder builder(process, &files);
  INCR_RETURN_IF_ERROR(OpenAll(image, builder));
  for (const pb::OpenFile& file : image.open_files()) {
    const auto opened = files.by_open_file.find(file.id());
    if (opened == files.by_open_file.end()) continue;
    INCR_RETURN_IF_ERROR(TakeDescriptionLocks(builder, file, opened->second.get()));
  }
  return files;
}

}  // namespace incr
