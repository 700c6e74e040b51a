// fuzz_parsers.h — what is on disk or in an export file, as fuzzers see it: any bytes, to each parser, as they are
// and once more with the checksums made right, since behind a wrong one no parser looks further.
//
// Thread-safe. A parser must return; what it accepts must be within the bounds that its header promises.
#ifndef INCR_CKPT_STORE_FUZZ_PARSERS_H_
#define INCR_CKPT_STORE_FUZZ_PARSERS_H_

#include <string>
#include <vector>

namespace incr {

struct FuzzParser {
  const char* name;  // and of its directory in testdata/fuzz
  // Returns whether the bytes, with their checksums made right, were taken for whole.
  bool (*run)(const std::string& bytes);
  std::string (*seed)(int n);  // n-th well-formed input; "": there are no more
};

const std::vector<FuzzParser>& FuzzParsers();

}  // namespace incr

#endif  // INCR_CKPT_STORE_FUZZ_PARSERS_H_
