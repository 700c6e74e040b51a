// libFuzzer's way in, built by scripts/fuzz.sh: the parser named in $INCR_CKPT_FUZZ_PARSER.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <google/protobuf/stubs/logging.h>

#include "store/fuzz_parsers.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // It complains of every byte that is not UTF-8.
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const char* const name = std::getenv("INCR_CKPT_FUZZ_PARSER");
  for (const incr::FuzzParser& parser : incr::FuzzParsers()) {
    if (name == nullptr || std::string(name) == parser.name) {
      (void)parser.run(std::string(reinterpret_cast<const char*>(data), size));
    }
  }
  return 0;
}
