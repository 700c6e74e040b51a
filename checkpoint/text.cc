#include "checkpoint/text.h"

#include <google/protobuf/stubs/common.h>

namespace incr {

bool IsUtf8(absl::string_view text) {
  return google::protobuf::internal::IsStructurallyValidUTF8(text.data(),
                                                             static_cast<int>(text.size()));
}

std::string PrintableUtf8(absl::string_view text) {
  std::string result(text);
  if (IsUtf8(text)) return result;
  for (char& c : result) {
    if (static_cast<unsigned char>(c) > 127) c = '?';
  }
  return result;
}

}  // namespace incr
