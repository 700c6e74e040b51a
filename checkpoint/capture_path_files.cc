#include "checkpoint/capture_path_files.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr unsigned kMemoryDevices = 1;  // major of /dev/null and its kin
constexpr unsigned kTtyDevices = 4, kTtySpecial = 5, kPtsFirst = 136, kPtsLast = 143;

// Files under /proc/<pid>/ get a new inode with every process. 0: not one of them.
pid_t ProcessOfProcFile(absl::string_view path) {
  if (!absl::ConsumePrefix(&path, "/proc/")) return 0;
  pid_t pid = 0;
  return absl::SimpleAtoi(path.substr(0, path.find('/')), &pid) ? pid : 0;
}

bool IsMemoryDevice(dev_t device) {
  if (major(device) != kMemoryDevices) return false;
  switch (minor(device)) {
    case 3:  // null
    case 5:  // zero
    case 7:  // full
    case 8:  // random
    case 9:  // urandom
      return true;
    default:
      return false;
  }
}

bool IsControllingTty(dev_t device) { return device == makedev(kTtySpecial, 0); }  // /dev/tty

absl::StatusOr<bool> IsTerminal(const ProcessHandle& target, const OpenDescription& description) {
  const unsigned device = major(description.first().stat.st_rdev);
  if (device == kTtyDevices || (device >= kPtsFirst && device <= kPtsLast)) return true;
  if (device == kTtySpecial) return minor(description.first().stat.st_rdev) <= 1;
  INCR_ASSIGN_OR_RETURN(ScopedFd copy, target.DuplicateFd(description.fd()));
  return ::isatty(copy.get()) == 1;
}

// /dev/tty is a name for another device; TIOCGDEV says which.
dev_t RealTerminal(const ProcessHandle& target, const FdEntry& entry) {
  if (!IsControllingTty(entry.stat.st_rdev)) return entry.stat.st_rdev;
  auto copy = target.DuplicateFd(entry.fd);
  unsigned device = 0;
  if (!copy.ok() || ::ioctl(copy->get(), TIOCGDEV, &device) != 0) return entry.stat.st_rdev;
  return device;
}

absl::Status CaptureTerminal(const FileCapture& capture, const OpenDescription& description,
                             pb::OpenFile* file) {
  const dev_t terminal = RealTerminal(capture.target, description.first());
  const auto same = [&](const FdEntry& entry) {
    return S_ISCHR(entry.stat.st_mode) && RealTerminal(capture.target, entry) == terminal;
  };
  if (BecomesStdio(capture, description, same, file)) return absl::OkStatus();
  file->set_kind(pb::OpenFile::CHAR_DEVICE);
  return FillIdentity(description, file->mutable_file());
}

// "1: POSIX  ADVISORY  WRITE 6758 fe:00:10952904 5 14"
absl::Status ParseLock(const OpenDescription& description, absl::string_view line,
                       pb::FileLock* lock) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  uint64_t start = 0, end = 0;
  if (words.size() < 8 || !absl::SimpleAtoi(words[6], &start) ||
      (words[7] != "EOF" && (!absl::SimpleAtoi(words[7], &end) || end < start))) {
    return absl::InternalError(absl::StrCat(Describe(description), ": lock line: ", line));
  }
  if (words[1] == "POSIX") {
    lock->set_kind(pb::FileLock::POSIX);
  } else if (words[1] == "FLOCK") {
    lock->set_kind(pb::FileLock::FLOCK);
  } else if (words[1] == "OFDLCK") {
    lock->set_kind(pb::FileLock::OPEN_FILE);
  } else {
    return Unsupported(description, absl::StrCat("holds a ", words[1], " on the file"));
  }
  lock->set_exclusive(words[3] == "WRITE");
  lock->set_start(start);
  lock->set_length(words[7] == "EOF" ? 0 : end - start + 1);
  return absl::OkStatus();
}

}  // namespace

absl::Status FillIdentity(const OpenDescription& description, pb::FileIdentity* identity) {
  const FdEntry& entry = description.first();
  if (!absl::StartsWith(entry.link, "/")) return Unsupported(description, "has no path");
  struct statx at_path{};
  const int result = ::statx(AT_FDCWD, entry.link.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                             STATX_BASIC_STATS | STATX_BTIME, &at_path);
  const bool found = result == 0 && at_path.stx_ino == entry.stat.st_ino &&
                     makedev(at_path.stx_dev_major, at_path.stx_dev_minor) == entry.stat.st_dev;
  if (!found) {
    if (entry.stat.st_nlink == 0 || absl::EndsWith(entry.link, " (deleted)")) {
      return Unsupported(description, "the file is deleted; only the process still holds it");
    }
    if (result != 0) {
      return Unsupported(description, absl::StrCat("cannot be found by its path: ",
                                                   ErrnoStatus("stat").message()));
    }
    return Unsupported(description, "another file is at its path now");
  }
  identity->set_path(entry.link);
  identity->set_dev(entry.stat.st_dev);
  identity->set_ino(entry.stat.st_ino);
  identity->set_size(at_path.stx_size);
  identity->set_mtime_ns(at_path.stx_mtime.tv_sec * 1'000'000'000LL + at_path.stx_mtime.tv_nsec);
  identity->set_mode(at_path.stx_mode);
  if (at_path.stx_mask & STATX_BTIME) {
    identity->set_birth_ns(at_path.stx_btime.tv_sec * 1'000'000'000LL + at_path.stx_btime.tv_nsec);
  }
  if (S_ISCHR(at_path.stx_mode)) identity->set_rdev(entry.stat.st_rdev);
  return absl::OkStatus();
}

absl::Status CapturePathFile(const FileCapture& capture, const OpenDescription& description,
                             pb::OpenFile* file) {
  const FdEntry& entry = description.first();
  if (const pid_t pid = ProcessOfProcFile(entry.link); pid != 0) {
    if (pid != capture.target.pid()) {
      return Unsupported(description, "a file of another process under /proc");
    }
    file->set_kind(pb::OpenFile::PROC_SELF);
    file->set_position(entry.position);
    file->mutable_file()->set_path(entry.link);
    return absl::OkStatus();
  }
  if (absl::StartsWith(entry.link, "/memfd:")) {
    return Unsupported(description, "memfd files are not supported yet");
  }
  file->set_kind(S_ISDIR(entry.stat.st_mode) ? pb::OpenFile::DIRECTORY : pb::OpenFile::REGULAR);
  file->set_position(entry.position);
  return FillIdentity(description, file->mutable_file());
}

absl::Status CaptureCharDevice(const FileCapture& capture, const OpenDescription& description,
                               pb::OpenFile* file) {
  const dev_t device = description.first().stat.st_rdev;
  if (IsMemoryDevice(device)) {
    file->set_kind(pb::OpenFile::CHAR_DEVICE);
    file->set_position(description.first().position);
    return FillIdentity(description, file->mutable_file());
  }
  if (device == makedev(kTtySpecial, 2)) {
    return Unsupported(description, "the master side of a pseudo-terminal");
  }
  INCR_ASSIGN_OR_RETURN(bool terminal, IsTerminal(capture.target, description));
  if (terminal) return CaptureTerminal(capture, description, file);
  return Unsupported(description, absl::StrCat("character device ", major(device), ":",
                                               minor(device), " holds state that cannot be saved"));
}

absl::Status CaptureLocks(const OpenDescription& description, pb::OpenFile* file) {
  absl::string_view text = description.first().fdinfo;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, "lock:")) continue;
    INCR_RETURN_IF_ERROR(ParseLock(description, line, file->add_locks()));
  }
  return absl::OkStatus();
}

}  // namespace incr
