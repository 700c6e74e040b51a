// The private library of `kinds`: code, and a table that most steps see another page of.
#include "testdata/targets/kinds_answer.h"

#include <array>

namespace {

constexpr auto kTable = [] {
  std::array<uint64_t, kKindsTableWords> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = KindsWord(i);
  return table;
}();

const volatile uint64_t* Table() { return kTable.data(); }

}  // namespace

extern "C" __attribute__((visibility("default"))) uint64_t KindsAnswer(uint64_t step) {
  const uint64_t at = step * 523 % kKindsTableWords;
  return Table()[at] ^ (Table()[(at + 5000) % kKindsTableWords] << 1) ^ step;
}
