#include "restore/file_builder.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "process/socket_options.h"

namespace incr {
namespace {

// What an error calls the object besides its number.
std::string ObjectName(const pb::OpenFile& file) {
  if (!file.file().path().empty()) return file.file().path();
  if (file.has_socket() && !file.socket().local_address().empty()) {
    return absl::StrCat("socket ", DescribeAddress(file.socket().local_address()));
  }
  return pb::OpenFile::Kind_Name(file.kind());
}

}  // namespace

FileBuilder::FileBuilder(const pb::Process& process, PreparedFiles* prepared)
    : prepared_(prepared) {
  for (const pb::FileDescriptor& descriptor : process.descriptors()) {
    const auto [place, added] = lowest_fd_.emplace(descriptor.open_file(), descriptor.fd());
    if (!added && descriptor.fd() < place->second) place->second = descriptor.fd();
  }
}

int FileBuilder::LowestFd(const pb::OpenFile& file) const {
  const auto lowest = lowest_fd_.find(file.id());
  return lowest == lowest_fd_.end() ? -1 : static_cast<int>(lowest->second);
}

std::string FileBuilder::Name(const pb::OpenFile& file) const {
  const int lowest = LowestFd(file);
  const std::string number =
      lowest < 0 ? absl::StrCat("open file ", file.id()) : absl::StrCat("fd ", lowest);
  return absl::StrCat(number, " (", ObjectName(file), ")");
}

absl::Status FileBuilder::Refuse(const pb::OpenFile& file, absl::string_view why) const {
  return absl::FailedPreconditionError(absl::StrCat(Name(file), ": ", why));
}

absl::Status FileBuilder::RefuseErrno(const pb::OpenFile& file,
                                      absl::string_view operation) const {
  const int error = errno;
  return Refuse(file, absl::StrCat(operation, ": ", std::strerror(error)));
}

absl::Status FileBuilder::Malformed(const pb::OpenFile& file, absl::string_view why) const {
  return absl::InvalidArgumentError(absl::StrCat(Name(file), ": ", why));
}

absl::StatusOr<ScopedFd> FileBuilder::MoveUp(ScopedFd fd) {
  if (fd.get() >= prepared_->first_free) return fd;
  ScopedFd high(::fcntl(fd.get(), F_DUPFD_CLOEXEC, prepared_->first_free));
  if (!high.ok()) return ErrnoStatus(absl::StrCat("F_DUPFD(", prepared_->first_free, ")"));
  return high;
}

absl::Status FileBuilder::Add(const pb::OpenFile& file, ScopedFd fd) {
  INCR_ASSIGN_OR_RETURN(ScopedFd high, MoveUp(std::move(fd)));
  if (!prepared_->by_open_file.emplace(file.id(), std::move(high)).second) {
    return Malformed(file, "is there twice");
  }
  return absl::OkStatus();
}

absl::Status FileBuilder::AddHelper(ScopedFd fd) {
  INCR_ASSIGN_OR_RETURN(ScopedFd high, MoveUp(std::move(fd)));
  prepared_->helpers.push_back(std::move(high));
  return absl::OkStatus();
}

absl::Status SetStatusFlags(const FileBuilder& builder, const pb::OpenFile& file, int fd) {
  constexpr int kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
  const int current = ::fcntl(fd, F_GETFL);
  if (current < 0) return builder.RefuseErrno(file, "F_GETFL");
  const int wanted = (current & ~kSettable) | (static_cast<int>(file.flags()) & kSettable);
  if (wanted == current) return absl::OkStatus();
  if (::fcntl(fd, F_SETFL, wanted) != 0) return builder.RefuseErrno(file, "F_SETFL");
  return absl::OkStatus();
}

ScopedFd Reopen(int fd, int flags) {
  return ScopedFd(::open(absl::StrCat("/proc/self/fd/", fd).c_str(), flags | O_CLOEXEC));
}

}  // namespace incr
