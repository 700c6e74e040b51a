// capture_anon_files.h — eventfd, epoll, timerfd, signalfd, from their fdinfo.
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_ANON_FILES_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_ANON_FILES_H_

#include "absl/status/status.h"
#include "checkpoint/open_description.h"
#include "proto/image.pb.h"

namespace incr {

// A file whose link is "anon_inode:...". Kinds that cannot be restored (inotify,
// io_uring, pidfd, ...) are Unsupported by name.
absl::Status CaptureAnonFile(const FileCapture& capture, const OpenDescription& description,
                             pb::OpenFile* file, pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_ANON_FILES_H_
