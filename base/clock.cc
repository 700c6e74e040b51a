#include "base/clock.h"

#include <ctime>

namespace incr {
namespace {

int64_t Micros(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

}  // namespace

int64_t MonotonicMicros() { return Micros(CLOCK_MONOTONIC); }
int64_t WallMicros() { return Micros(CLOCK_REALTIME); }

}  // namespace incr
