// open_anon_files.h — eventfd, timerfd, signalfd, and an epoll that watches nothing yet (the
// watches carry descriptor numbers, so the child adds them).
#ifndef INCR_CKPT_RESTORE_OPEN_ANON_FILES_H_
#define INCR_CKPT_RESTORE_OPEN_ANON_FILES_H_

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "restore/file_builder.h"

namespace incr {

absl::Status OpenEventfd(FileBuilder& builder, const pb::OpenFile& file);
absl::Status OpenEpoll(FileBuilder& builder, const pb::OpenFile& file);
absl::Status OpenSignalfd(FileBuilder& builder, const pb::OpenFile& file);

// A relative timer runs on from what was left. An absolute one on a wall clock keeps its
// moment. An absolute one on a clock that counts from boot fires at its moment, but never
// later than after what was left: after a reboot its moment may be days away.
absl::Status OpenTimerfd(FileBuilder& builder, const pb::OpenFile& file);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_OPEN_ANON_FILES_H_
