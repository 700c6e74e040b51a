#include "cli/progress_line.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "cli/text_table.h"

namespace incr {
namespace {

constexpr int64_t kOnTerminalUs = 1'000'000, kElsewhereUs = 10'000'000;

}  // namespace

ProgressLine::ProgressLine(std::string verb)
    : verb_(std::move(verb)),
      terminal_(::isatty(STDERR_FILENO)),
      start_us_(MonotonicMicros()),
      next_us_(start_us_ + (terminal_ ? kOnTerminalUs : kElsewhereUs)) {}

ProgressLine::~ProgressLine() {
  if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
}

void ProgressLine::Show(double bytes, double total, const std::string& more) {
  const int64_t now_us = MonotonicMicros();
  if (now_us < next_us_) return;
  next_us_ = now_us + (terminal_ ? kOnTerminalUs : kElsewhereUs);
  shown_ = true;
  std::string text = absl::StrCat(verb_, ": ", FormatBytes(bytes));
  if (total > 0) absl::StrAppend(&text, " of ", FormatBytes(total));
  absl::StrAppend(&text, ", ", FormatBytes(bytes / std::max(elapsed_s(), 1e-6)), "/s",
                  more.empty() ? "" : ", ", more);
  std::fputs((terminal_ ? absl::StrCat("\r\033[K", text) : absl::StrCat("incr-ckpt: ", text, "\n")).c_str(),
             stderr);
}

double ProgressLine::elapsed_s() const { return (MonotonicMicros() - start_us_) / 1e6; }

}  // namespace incr
