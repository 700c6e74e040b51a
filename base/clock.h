// clock.h — monotonic and wall time in named units. Thread-safe.
#ifndef INCR_CKPT_BASE_CLOCK_H_
#define INCR_CKPT_BASE_CLOCK_H_

#include <cstdint>

namespace incr {

// CLOCK_MONOTONIC in microseconds: for durations only.
int64_t MonotonicMicros();

// CLOCK_REALTIME in microseconds since 1970.
int64_t WallMicros();

// Microseconds since construction.
class Stopwatch {
 public:
  Stopwatch() : start_us_(MonotonicMicros()) {}
  int64_t elapsed_us() const { return MonotonicMicros() - start_us_; }

 private:
  int64_t start_us_;
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_CLOCK_H_
