#include "store/gc_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace incr {
namespace {

constexpr int64_t kSecondUs = 1'000'000, kMinuteUs = 60 * kSecondUs, kHourUs = 60 * kMinuteUs,
                  kDayUs = 24 * kHourUs;
constexpr int64_t kLongestAgeUs = 100 * 365 * kDayUs;

struct Unit {
  char letter;
  int64_t us;
};
constexpr Unit kUnits[] = {{'d', kDayUs}, {'h', kHourUs}, {'m', kMinuteUs}, {'s', kSecondUs}};

std::string AgeText(int64_t us) {
  std::string text;
  for (const Unit& unit : kUnits) {
    if (us < unit.us) continue;
    absl::StrAppend(&text, us / unit.us, std::string(1, unit.letter));
    us %= unit.us;
  }
  return text;
}

int64_t PeriodOf(int64_t time_us, int64_t period_us) {
  return time_us >= 0 ? time_us / period_us : (time_us + 1) / period_us - 1;
}

class Chooser {
 public:
  explicit Chooser(const std::vector<EpochMoment>& epochs) : epochs_(epochs) {}

  void Keep(uint64_t epoch, absl::string_view rule) {
    std::string& rules = kept_[epoch];
    absl::StrAppend(&rules, rules.empty() ? "" : ", ", rule);
  }
  void KeepLast(uint64_t n) {
    for (size_t i = epochs_.size() - std::min<uint64_t>(n, epochs_.size()); i < epochs_.size(); ++i) {
      Keep(epochs_[i].epoch, "last");
    }
  }
  void KeepWithin(int64_t age_us) {
    if (age_us == 0) return;
    int64_t newest_us = epochs_.back().time_us;
    for (const EpochMoment& epoch : epochs_) newest_us = std::max(newest_us, epoch.time_us);
    for (const EpochMoment& epoch : epochs_) {
      if (newest_us - epoch.time_us <= age_us) Keep(epoch.epoch, "within");
    }
  }
  void KeepPeriods(uint64_t n, int64_t period_us, absl::string_view rule) {
    // The clock may have been set back: by period, not by the order of numbers.
    std::map<int64_t, uint64_t> newest;
    for (const EpochMoment& epoch : epochs_) newest[PeriodOf(epoch.time_us, period_us)] = epoch.epoch;
    for (auto it = newest.rbegin(); it != newest.rend() && n > 0; ++it, --n) Keep(it->second, rule);
  }
  void KeepNumbers(const std::vector<uint64_t>& numbers) {
    for (const EpochMoment& epoch : epochs_) {
      if (std::find(numbers.begin(), numbers.end(), epoch.epoch) != numbers.end()) {
        Keep(epoch.epoch, "keep");
      }
    }
  }
  std::map<uint64_t, std::string> Result() && {
    if (kept_.count(epochs_.back().epoch) == 0) Keep(epochs_.back().epoch, "newest");
    return std::move(kept_);
  }

 private:
  const std::vector<EpochMoment>& epochs_;
  std::map<uint64_t, std::string> kept_;
};

}  // namespace

std::string PolicyText(const GcPolicy& policy) {
  std::vector<std::string> rules;
  if (policy.keep_last != 0) rules.push_back(absl::StrCat("--keep-last ", policy.keep_last));
  if (policy.keep_within_us != 0) {
    rules.push_back(absl::StrCat("--keep-within ", AgeText(policy.keep_within_us)));
  }
  if (policy.keep_hourly != 0) rules.push_back(absl::StrCat("--keep-hourly ", policy.keep_hourly));
  if (policy.keep_daily != 0) rules.push_back(absl::StrCat("--keep-daily ", policy.keep_daily));
  for (const uint64_t epoch : policy.keep) rules.push_back(absl::StrCat("--keep ", epoch));
  std::string text;
  for (const std::string& rule : rules) absl::StrAppend(&text, text.empty() ? "" : " ", rule);
  return text;
}

absl::StatusOr<int64_t> ParseAge(absl::string_view text) {
  const auto refuse = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" is no time span: write it as 90s, 30m, 2h, 7d or 1h30m"));
  };
  int64_t total_us = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    int64_t number = 0;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
      if (number > kLongestAgeUs / kSecondUs) return refuse();
      number = number * 10 + (text[at] - '0');
    }
    if (at == begin || at == text.size()) return refuse();
    const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                   [&](const Unit& u) { return u.letter == text[at]; });
    if (unit == std::end(kUnits) || number > kLongestAgeUs / unit->us) return refuse();
    total_us += number * unit->us;
    ++at;
    if (total_us > kLongestAgeUs) return refuse();
  }
  if (total_us == 0) return refuse();
  return total_us;
}

std::map<uint64_t, std::string> ChooseKept(const std::vector<EpochMoment>& epochs,
                                           const GcPolicy& policy) {
  if (epochs.empty()) return {};
  Chooser chooser(epochs);
  chooser.KeepLast(policy.keep_last);
  chooser.KeepWithin(policy.keep_within_us);
  chooser.KeepPeriods(policy.keep_hourly, kHourUs, "hourly");
  chooser.KeepPeriods(policy.keep_daily, kDayUs, "daily");
  chooser.KeepNumbers(policy.keep);
  return std::move(chooser).Result();
}

}  // namespace incr
