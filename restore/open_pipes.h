// open_pipes.h — pipes with both ends within the image, made anew and filled; and ends of
// outside pipes that were inherited.
#ifndef INCR_CKPT_RESTORE_OPEN_PIPES_H_
#define INCR_CKPT_RESTORE_OPEN_PIPES_H_

#include <vector>

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// `ends`: all PIPE files of one pipe_id; several open files may share an end. One
// of them carries the content.
absl::Status OpenPipe(FileBuilder& builder, const std::vector<const pb::OpenFile*>& ends);

// INHERITED_PIPE: an end whose other end is closed.
absl::Status OpenInheritedPipe(FileBuilder& builder, const pb::OpenFile& file);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_OPEN_PIPES_H_
