// gc_policy.h — which epochs of a job stay. An epoch stays if any rule keeps it; the newest stays
// without one. Pure; thread-safe.
#ifndef INCR_CKPT_STORE_GC_POLICY_H_
#define INCR_CKPT_STORE_GC_POLICY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace incr {

struct GcPolicy {
  uint64_t keep_last = 0;      // the newest so many; 0: no such rule
  int64_t keep_within_us = 0;  // not older than this, from the job's newest epoch
  uint64_t keep_hourly = 0;    // of each of the last so many hours that have any, the newest
  uint64_t keep_daily = 0;     // days and hours are UTC's
  std::vector<uint64_t> keep;  // by number

  bool empty() const {
    return keep_last == 0 && keep_within_us == 0 && keep_hourly == 0 && keep_daily == 0 &&
           keep.empty();
  }
};

// "--keep-last 100 --keep-within 2h"; "" if it is empty.
std::string PolicyText(const GcPolicy& policy);

// "90s", "30m", "2h", "7d", "1h30m" in microseconds. kInvalidArgument shows how it is written.
absl::StatusOr<int64_t> ParseAge(absl::string_view text);

struct EpochMoment {
  uint64_t epoch = 0;
  int64_t time_us = 0;
};

// By epoch that stays: the rules that keep it, "last, hourly". `epochs` by number, ascending.
std::map<uint64_t, std::string> ChooseKept(const std::vector<EpochMoment>& epochs,
                                           const GcPolicy& policy);

}  // namespace incr

#endif  // INCR_CKPT_STORE_GC_POLICY_H_
