// capture_path_files.h — what a path leads to: regular files, directories, devices, FIFOs,
// terminals. A path is only kept if it still leads to the open file.
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_PATH_FILES_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_PATH_FILES_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/open_description.h"
#include "proto/image.pb.h"

namespace incr {

// All of them: OK and `file` filled in, kUnimplemented (Unsupported()) or a failure.

// Regular files, directories, and anything opened with O_PATH. Files under /proc/<pid>/: only
// those of the process itself; programs look into their own all the time.
absl::Status CapturePathFile(const FileCapture& capture, const OpenDescription& description,
                             pb::OpenFile* file);

// Memory devices by path; a terminal as STDIO where it is that of fd 0..2, else by path.
absl::Status CaptureCharDevice(const FileCapture& capture, const OpenDescription& description,
                               pb::OpenFile* file);

// Sets `identity` from the path of the description, if the path still names that file.
absl::Status FillIdentity(const OpenDescription& description, pb::FileIdentity* identity);

// Locks held through this description (fdinfo "lock:" lines).
absl::Status CaptureLocks(const OpenDescription& description, pb::OpenFile* file);

// Makes `file` STDIO in place of an outside object, if it is the one that is on fd 0..2
// (`same` says which table entries are). False: it is not.
template <typename Same>
bool BecomesStdio(const FileCapture& capture, const OpenDescription& description, Same same,
                  pb::OpenFile* file) {
  const FdEntry* best = nullptr;
  const auto fits = [&](const FdEntry& entry) {
    const uint32_t access = entry.flags & 3, wanted = description.flags() & 3;
    return access == wanted || access == 2 /* O_RDWR */;
  };
  for (const FdEntry& entry : capture.table) {
    if (entry.fd > 2) break;
    if (!same(entry)) continue;
    if (best == nullptr || (!fits(*best) && fits(entry))) best = &entry;
  }
  if (best == nullptr) return false;
  file->set_kind(pb::OpenFile::STDIO);
  file->set_stdio_fd(static_cast<uint32_t>(best->fd));
  return true;
}

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_PATH_FILES_H_
