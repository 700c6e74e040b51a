// text.h — kernel names (comm, file names) are bytes; the image's strings are UTF-8, and
// protobuf refuses to parse a message with any other: an image written with one could
// never be read again. Pure.
#ifndef INCR_CKPT_CHECKPOINT_TEXT_H_
#define INCR_CKPT_CHECKPOINT_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace incr {

bool IsUtf8(absl::string_view text);

// `text` itself if it is UTF-8, else with '?' for every byte above 127.
std::string PrintableUtf8(absl::string_view text);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_TEXT_H_
