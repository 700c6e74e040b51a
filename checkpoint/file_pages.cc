#include "checkpoint/file_pages.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "base/status.h"
#include "checkpoint/file_identity.h"
#include "proto/image_check.h"

namespace incr {
namespace {

constexpr uint64_t kPagesAtOnce = 256;

bool SameVersion(const pb::FileIdentity& a, const pb::FileIdentity& b) {
  return SameFile(a, b) && a.birth_ns() == b.birth_ns() && a.size() == b.size() &&
         a.mtime_ns() == b.mtime_ns() && a.change_ns() == b.change_ns();
}

// The pages of the file that `mapping` shows; none beyond its end.
PageRange MappedPages(const pb::Mapping& mapping) {
  const uint64_t first = mapping.offset() / kPageSize;
  const uint64_t end = std::min(first + (mapping.end() - mapping.start()) / kPageSize,
                                (mapping.file().size() + kPageSize - 1) / kPageSize);
  return {first, end > first ? end - first : 0};
}

bool IsVersion(int fd, const pb::FileIdentity& identity) {
  pb::FileIdentity now;
  return IdentityAt(absl::StrCat("/proc/self/fd/", fd), identity.path(), &now) &&
         SameVersion(now, identity);
}

absl::Status Changed(const pb::FileIdentity& identity) {
  return absl::AbortedError(
      absl::StrCat(identity.path(), " was changed while its pages were saved"));
}

}  // namespace

void FilePages::Adopt(const pb::Process& process, const PageTable& table) {
  durable_.clear();
  for (const pb::Mapping& mapping : process.mappings()) {
    const bool known = std::any_of(durable_.begin(), durable_.end(), [&](const File& file) {
      return file.space == mapping.file_space();
    });
    if (mapping.file_space() == 0 || known) continue;
    durable_.push_back({mapping.file(), mapping.file_space(),
                        PagesOfSpace(table, mapping.file_space()), PageSet(), 0, 0});
  }
}

FilePages::File* FilePages::FindOrAdd(const pb::FileIdentity& identity) {
  for (File& file : pending_) {
    if (SameVersion(file.identity, identity)) return &file;
  }
  uint32_t space = kFirstFileSpace;
  for (const std::vector<File>* files : {&durable_, &pending_}) {
    for (const File& file : *files) space = std::max(space, file.space + 1);
  }
  for (const File& file : durable_) {
    if (!SameVersion(file.identity, identity)) continue;
    pending_.push_back(file);
    pending_.back().mapped.Clear();
    return &pending_.back();
  }
  pending_.push_back({identity, space, PageSet(), PageSet(), 0, 0});
  return &pending_.back();
}

absl::Status FilePages::Save(const ProcessHandle& target, EpochWriter* writer,
                             pb::Process* process) {
  pending_.clear();
  for (pb::Mapping& mapping : *process->mutable_mappings()) {
    if (!enabled_ || mapping.kind() != pb::Mapping::PRIVATE_FILE ||
        !S_ISREG(mapping.file().mode())) {
      continue;
    }
    File* file = FindOrAdd(mapping.file());
    if (const PageRange pages = MappedPages(mapping); pages.count > 0) file->mapped.Add(pages);
    file->start = mapping.start();
    file->end = mapping.end();
    mapping.set_file_space(file->space);
  }
  for (File& file : pending_) INCR_RETURN_IF_ERROR(SaveFile(target, writer, &file));
  for (const File& old : durable_) {
    const bool kept = std::any_of(pending_.begin(), pending_.end(),
                                  [&](const File& file) { return file.space == old.space; });
    if (kept) continue;
    for (const PageRange& run : old.saved.runs()) {
      INCR_RETURN_IF_ERROR(writer->AddGone(old.space, run));
    }
  }
  return absl::OkStatus();
}

absl::Status FilePages::SaveFile(const ProcessHandle& target, EpochWriter* writer, File* file) {
  PageSet missing = file->mapped;
  missing.Remove(file->saved);
  if (missing.empty()) return absl::OkStatus();
  const std::string& path = file->identity.path();
  absl::StatusOr<ScopedFd> fd = OpenFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd.ok() || !IsVersion(fd->get(), file->identity)) {
    // Deleted or replaced: the mapping still leads to it.
    fd = OpenFile(target.ProcPath(absl::StrFormat("map_files/%x-%x", file->start, file->end)),
                  O_RDONLY);
    if (absl::IsNotFound(fd.status())) return Changed(file->identity);
    INCR_RETURN_IF_ERROR(fd.status());
    if (!IsVersion(fd->get(), file->identity)) return Changed(file->identity);
  }
  std::vector<uint8_t> bytes(kPagesAtOnce * kPageSize);
  for (PageRange run : missing.runs()) {
    while (run.count > 0) {
      const PageRange part{run.first, std::min(run.count, kPagesAtOnce)};
      INCR_ASSIGN_OR_RETURN(const size_t got, PreadUpTo(fd->get(), bytes.data(), part.count * kPageSize,
                                                        part.first * kPageSize, path));
      std::fill(bytes.begin() + got, bytes.end(), 0);
      INCR_RETURN_IF_ERROR(writer->AddPages(file->space, part, bytes.data()));
      run = {part.end(), run.count - part.count};
    }
  }
  if (!IsVersion(fd->get(), file->identity)) return Changed(file->identity);
  file->saved.Add(missing);
  return absl::OkStatus();
}

}  // namespace incr
