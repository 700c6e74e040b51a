// image_check.h — a process image is input, and may be hostile: checked here, whole,
// before anything in it is used.
//
// After ValidateImage every address range in the image is page aligned, ordered,
// disjoint and inside user space; every length is what the kernel structure of that name
// has; every reference (open file, memory object) resolves; every path is absolute and
// fits PATH_MAX. What only the running kernel can judge (is the file there, is the pid
// free) is the restore's business. Pure and thread-safe.
#ifndef INCR_CKPT_PROTO_IMAGE_CHECK_H_
#define INCR_CKPT_PROTO_IMAGE_CHECK_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/image.pb.h"

namespace incr {

inline constexpr uint32_t kImageVersion = 1;
inline constexpr size_t kMaxImageBytes = 256u << 20;  // a full pipe or socket is at most a few MiB
inline constexpr uint64_t kTaskSize = 0x7ffffffff000;  // x86-64, 4-level page tables
inline constexpr uint64_t kVsyscallStart = 0xffffffffff600000;
// Mapping.file_space; below are the spaces of processes.
inline constexpr uint32_t kFirstFileSpace = 1u << 24;
inline constexpr uint32_t kEndFileSpace = 1u << 30;
inline constexpr uint64_t kVsyscallEnd = 0xffffffffff601000;

// Errors: kInvalidArgument that names the offending object; kFailedPrecondition for a
// newer version than ours.
absl::Status ValidateImage(const pb::Image& image);

// Parses within kMaxImageBytes, then validates.
absl::StatusOr<pb::Image> ParseImage(absl::string_view bytes);

}  // namespace incr

#endif  // INCR_CKPT_PROTO_IMAGE_CHECK_H_
