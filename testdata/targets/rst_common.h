// rst_common.h — what the restore tests' targets share: they check themselves and say so on
// stdout ("ready", "tick N", "done"; or "BAD ..." and exit status 1).
#ifndef INCR_CKPT_TESTDATA_TARGETS_RST_COMMON_H_
#define INCR_CKPT_TESTDATA_TARGETS_RST_COMMON_H_

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

inline void Say(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  line[n++] = '\n';
  if (write(1, line, n) != n) _exit(3);
}

#define EXPECT(condition, ...)                                       \
  do {                                                               \
    if (!(condition)) {                                              \
      Say("BAD %s:%d: %s (errno %d)", __FILE__, __LINE__, #condition, errno); \
      _exit(1);                                                      \
    }                                                                \
  } while (0)

inline volatile sig_atomic_t go = 0;

// SIGTERM (or `signal`) sets `go`.
inline void GoOn(int signal) {
  struct sigaction action = {};
  action.sa_handler = [](int) { go = 1; };
  sigaction(signal, &action, nullptr);
}

inline void SleepMs(int ms) {
  timespec left = {ms / 1000, (ms % 1000) * 1000000L};
  while (nanosleep(&left, &left) != 0) {
  }
}

inline uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

inline void Fill(void* memory, size_t bytes, uint64_t seed) {
  uint64_t* words = static_cast<uint64_t*>(memory);
  for (size_t i = 0; i < bytes / 8; ++i) words[i] = Mix(seed + i);
}

inline bool IsFilled(const void* memory, size_t bytes, uint64_t seed) {
  const uint64_t* words = static_cast<const uint64_t*>(memory);
  for (size_t i = 0; i < bytes / 8; ++i) {
    if (words[i] != Mix(seed + i)) return false;
  }
  return true;
}

#endif  // INCR_CKPT_TESTDATA_TARGETS_RST_COMMON_H_
