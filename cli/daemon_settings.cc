#include "cli/daemon_settings.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace incr {
namespace {

constexpr char kMemoryLimit[] = "memory-limit=";
constexpr char kParanoid[] = "paranoid";

}  // namespace

std::vector<std::string> ToArguments(const DaemonSettings& settings) {
  std::vector<std::string> arguments;
  if (settings.memory_limit != 0) {
    arguments.push_back(absl::StrCat(kMemoryLimit, settings.memory_limit));
  }
  if (settings.paranoid) arguments.push_back(kParanoid);
  return arguments;
}

std::optional<DaemonSettings> FromArguments(const std::vector<std::string>& arguments) {
  DaemonSettings settings;
  for (absl::string_view argument : arguments) {
    if (argument == kParanoid) {
      settings.paranoid = true;
    } else if (!absl::ConsumePrefix(&argument, kMemoryLimit) ||
               !absl::SimpleAtoi(argument, &settings.memory_limit)) {
      return std::nullopt;
    }
  }
  return settings;
}

absl::Status CheckAsAsked(const DaemonSettings& running, const DaemonSettings& asked) {
  std::string option;
  if (asked.memory_limit != 0 && asked.memory_limit != running.memory_limit) {
    option = absl::StrCat("--memory-limit ", asked.memory_limit);
  } else if (asked.paranoid && !running.paranoid) {
    option = "--paranoid";
  } else {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the store's daemon runs without ", option,
                   ": stop its jobs first (incr-ckpt stop --all), or leave the option out"));
}

std::optional<uint64_t> ParseSize(const std::string& text) {
  std::string number = absl::AsciiStrToUpper(text);
  int shift = 0;
  const std::string_view units = "BKMGT";
  absl::string_view rest = number;
  (void)(absl::ConsumeSuffix(&rest, "IB") || (rest.size() > 1 && absl::ConsumeSuffix(&rest, "B")));
  if (!rest.empty()) {
    const size_t unit = units.find(rest.back());
    if (unit != std::string_view::npos && unit > 0) {
      shift = 10 * static_cast<int>(unit);
      rest.remove_suffix(1);
    } else if (number.size() - rest.size() == 2) {
      return std::nullopt;  // "5iB"
    }
  }
  uint64_t value = 0;
  if (!absl::SimpleAtoi(rest, &value) || value > (UINT64_MAX >> shift)) return std::nullopt;
  return value << shift;
}

}  // namespace incr
