#include "restore/socket_files.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr int kAsideNames = 100;  // a restorer that was killed may have left some

}  // namespace

int SocketFiles::Step::at() const { return directory.ok() ? directory.get() : AT_FDCWD; }

SocketFiles::SocketFiles(SocketFiles&& other) noexcept
    : steps_(std::exchange(other.steps_, {})) {}

SocketFiles& SocketFiles::operator=(SocketFiles&& other) noexcept {
  if (this == &other) return *this;
  Undo();
  steps_ = std::exchange(other.steps_, {});
  return *this;
}

absl::StatusOr<SocketFiles::Step> SocketFiles::NewStep(int directory, const std::string& path) {
  Step step;
  step.path = path;
  if (directory == AT_FDCWD) return step;
  // Not below its own number: descriptors of the image stay free.
  step.directory.reset(::fcntl(directory, F_DUPFD_CLOEXEC, directory));
  if (!step.directory.ok()) return ErrnoStatus(absl::StrCat("F_DUPFD(folder of ", path, ")"));
  return step;
}

absl::Status SocketFiles::SetAside(int directory, const std::string& path) {
  INCR_ASSIGN_OR_RETURN(Step step, NewStep(directory, path));
  for (int i = 0; i < kAsideNames; ++i) {
    step.aside = absl::StrCat(path, ".incr-ckpt-", ::getpid(), "-", i);
    if (::renameat2(directory, path.c_str(), directory, step.aside.c_str(), RENAME_NOREPLACE) ==
        0) {
      steps_.push_back(std::move(step));
      return absl::OkStatus();
    }
    if (errno != EEXIST) break;
  }
  if (errno != EINVAL) return ErrnoStatus(absl::StrCat("rename(", path, ")"));
  if (::unlinkat(directory, path.c_str(), 0) != 0) {
    return ErrnoStatus(absl::StrCat("unlink(", path, ")"));
  }
  return absl::OkStatus();
}

absl::Status SocketFiles::AddBound(int directory, const std::string& path) {
  struct stat made{};
  auto step = NewStep(directory, path);
  absl::Status status = step.status();
  if (status.ok() && ::fstatat(directory, path.c_str(), &made, AT_SYMLINK_NOFOLLOW) != 0) {
    status = ErrnoStatus(absl::StrCat("stat(", path, ")"));
  }
  if (!status.ok()) {
    ::unlinkat(directory, path.c_str(), 0);
    return status;
  }
  step->device = made.st_dev;
  step->inode = made.st_ino;
  steps_.push_back(*std::move(step));
  return absl::OkStatus();
}

void SocketFiles::Keep() {
  for (const Step& step : steps_) {
    if (!step.aside.empty()) ::unlinkat(step.at(), step.aside.c_str(), 0);
  }
  steps_.clear();
}

void SocketFiles::Undo() {
  for (; !steps_.empty(); steps_.pop_back()) {
    const Step& step = steps_.back();
    if (step.aside.empty()) {
      struct stat found{};
      if (::fstatat(step.at(), step.path.c_str(), &found, AT_SYMLINK_NOFOLLOW) == 0 &&
          found.st_dev == step.device && found.st_ino == step.inode) {
        ::unlinkat(step.at(), step.path.c_str(), 0);
      }
    } else if (::renameat2(step.at(), step.aside.c_str(), step.at(), step.path.c_str(),
                           RENAME_NOREPLACE) != 0) {
      ::unlinkat(step.at(), step.aside.c_str(), 0);  // Somebody serves the name by now.
    }
  }
}

}  // namespace incr
