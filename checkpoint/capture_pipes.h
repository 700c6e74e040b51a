// capture_pipes.h — pipes and named pipes, with what is in them.
//
//   both ends here            PIPE: capacity and content; restored whole
//   one end here, fd 0..2     STDIO: the restore command's own takes its place
//   one end here, inherited   INHERITED_PIPE and a warning (fd_table.h, InheritedPipeEnd)
//   one end here, otherwise   unsupported
//
// Whether somebody outside holds a copy of an end that is here as well cannot be
// seen cheaply: such a pipe counts as the process's own.
#ifndef INCR_CKPT_CHECKPOINT_CAPTURE_PIPES_H_
#define INCR_CKPT_CHECKPOINT_CAPTURE_PIPES_H_

#include "absl/status/status.h"
#include "checkpoint/open_description.h"
#include "proto/image.pb.h"

namespace incr {

// Content is copied by tee(2): nothing is consumed.
absl::Status CapturePipe(const FileCapture& capture, const OpenDescription& description,
                         pb::OpenFile* file, pb::Image* image);

// A FIFO with a path is reopened by it; its content is kept if both ends are here.
absl::Status CaptureFifo(const FileCapture& capture, const OpenDescription& description,
                         pb::OpenFile* file, pb::Image* image);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_CAPTURE_PIPES_H_
