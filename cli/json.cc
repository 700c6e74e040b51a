#include "cli/json.h"

#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

namespace json = google::protobuf::util;

std::string Print(const google::protobuf::Message& message, bool pretty) {
  json::JsonPrintOptions options;
  options.add_whitespace = pretty;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  INCR_CHECK(json::MessageToJsonString(message, &text, options).ok());
  return text;
}

// Length of the well-formed UTF-8 sequence at the start of `text`; 0 if there is none.
size_t SequenceLength(absl::string_view text) {
  const uint8_t first = text[0];
  const size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2
                        : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (length == 0 || length > text.size()) return 0;
  uint32_t code = length == 1 ? first : first & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    const uint8_t next = text[i];
    if ((next & 0xC0) != 0x80) return 0;
    code = code << 6 | (next & 0x3F);
  }
  if (length == 3 && (code < 0x800 || (code >= 0xD800 && code < 0xE000))) return 0;
  if (length == 4 && (code < 0x10000 || code > 0x10FFFF)) return 0;
  return length;
}

}  // namespace

std::string ToJson(const google::protobuf::Message& message) { return Print(message, false); }

std::string ToPrettyJson(const google::protobuf::Message& message) {
  return Print(message, true);
}

absl::Status FromJson(absl::string_view text, google::protobuf::Message* message) {
  message->Clear();
  if (text.empty()) return absl::OkStatus();
  json::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  auto status = json::JsonStringToMessage({text.data(), text.size()}, message, options);
  if (status.ok()) return absl::OkStatus();
  const auto why = status.message();
  return absl::InvalidArgumentError(
      CleanText(absl::StrCat("not the JSON of a ", message->GetDescriptor()->name(), ": ",
                             absl::string_view(why.data(), why.size()))));
}

std::string CleanText(absl::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    if (length == 0) {
      clean += '?';
    } else if (length == 1 && (static_cast<uint8_t>(text[0]) < 0x20 || text[0] == 0x7F)) {
      clean += ' ';
    } else {
      clean.append(text.data(), length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return clean;
}

}  // namespace incr
