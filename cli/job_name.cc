#include "cli/job_name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/json.h"

namespace incr {
namespace {

constexpr size_t kMaxJobName = 64;

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
}

}  // namespace

absl::Status CheckJobName(absl::string_view name) {
  if (!name.empty() && name.size() <= kMaxJobName && name != "." && name != ".." &&
      std::all_of(name.begin(), name.end(), IsNameCharacter)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", CleanText(name.substr(0, 2 * kMaxJobName)),
                   "\" is no job name: 1 to 64 of the characters A-Z a-z 0-9 . _ -"));
}

std::string DefaultJobName(absl::string_view command, pid_t pid) {
  const std::string suffix = absl::StrCat("-", pid);
  std::string name(command.substr(0, kMaxJobName - suffix.size()));
  for (char& c : name) {
    if (!IsNameCharacter(c)) c = '_';
  }
  return absl::StrCat(name.empty() ? "process" : name, suffix);
}

std::optional<pid_t> ParsePid(absl::string_view text) {
  pid_t pid = 0;
  if (text.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(text[0]))) {
    return std::nullopt;
  }
  if (!absl::SimpleAtoi(text, &pid) || pid <= 0) return std::nullopt;
  return pid;
}

}  // namespace incr
