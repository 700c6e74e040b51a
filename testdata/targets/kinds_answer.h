// kinds_answer.h — what libkinds_answer.so answers, and what it must be.
#ifndef INCR_CKPT_TESTDATA_TARGETS_KINDS_ANSWER_H_
#define INCR_CKPT_TESTDATA_TARGETS_KINDS_ANSWER_H_

#include <cstddef>
#include <cstdint>

inline constexpr size_t kKindsTableWords = 16 * 1024;  // 128 KiB of read-only data

constexpr uint64_t KindsWord(uint64_t i) {
  i = (i + 1) * 0x9e3779b97f4a7c15;
  return i ^ (i >> 29);
}

constexpr uint64_t KindsExpected(uint64_t step) {
  const uint64_t at = step * 523 % kKindsTableWords;
  return KindsWord(at) ^ (KindsWord((at + 5000) % kKindsTableWords) << 1) ^ step;
}

extern "C" uint64_t KindsAnswer(uint64_t step);

#endif  // INCR_CKPT_TESTDATA_TARGETS_KINDS_ANSWER_H_
