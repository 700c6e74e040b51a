// json.h — protobuf messages as the API's JSON: field names as written, zero values present,
// unknown fields ignored. Thread-safe.
#ifndef INCR_CKPT_CLI_JSON_H_
#define INCR_CKPT_CLI_JSON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}

namespace incr {

// One line. Strings in `message` must be UTF-8 (CleanText).
std::string ToJson(const google::protobuf::Message& message);

// For people: indented, ends with a newline.
std::string ToPrettyJson(const google::protobuf::Message& message);

// kInvalidArgument says what is wrong with `text`. Empty text is an empty message.
absl::Status FromJson(absl::string_view text, google::protobuf::Message* message);

// `text` with what is not UTF-8 replaced by '?', and control characters by spaces: file
// names are bytes, JSON and terminals are not.
std::string CleanText(absl::string_view text);

}  // namespace incr

#endif  // INCR_CKPT_CLI_JSON_H_
