// capture_files.h — open descriptors of a frozen process into the image.
//
// Every descriptor becomes an OpenFile of a kind that restore/open_files.h can bring
// back, or an error that names it (invariant 7). With `allow_unsupported` it becomes a
// warning instead and the descriptor is left out.
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_FILES_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_FILES_H_

#include <set>
#include <string>

#include "absl/status/status.h"
#include "process/fd_table.h"
#include "process/process_handle.h"
#include "proto/image.pb.h"

namespace incr {

// What need not be found anew in every freeze.
struct FilesKnown {
  FsContext fs;  // read a moment ago; its working directory is read again
  // "fd link" of pipes that InheritedPipeEnd() said yes to: where a pipe came from does not change.
  std::set<std::string>* inherited_pipes = nullptr;
};

// Fills process->descriptors, cwd, root, umask and image->open_files, image->warnings.
absl::Status CaptureFiles(const ProcessHandle& target, FilesKnown known, bool allow_unsupported,
                          pb::Process* process, pb::Image* image);
absl::Status CaptureFiles(const ProcessHandle& target, bool allow_unsupported,
                          pb::Process* process, pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_FILES_H_
