// pipe_content.h — capacity and content back into a pipe.
#ifndef INCR_CKPT_RESTORE_PIPE_CONTENT_H_
#define INCR_CKPT_RESTORE_PIPE_CONTENT_H_

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

// `writer`: a descriptor that writes to an empty pipe, O_NONBLOCK. Sets file.pipe().capacity()
// and writes file.pipe().content(), packet by packet if it has packets.
absl::Status FillPipe(const FileBuilder& builder, const pb::OpenFile& file, int writer);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_PIPE_CONTENT_H_
