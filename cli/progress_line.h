// progress_line.h — how far a long command is, on stderr: one line that is rewritten every second on a
// terminal, a line of its own every ten seconds elsewhere. Nothing for what is done before.
//
// Not thread-safe.
#ifndef INCR_CKPT_CLI_PROGRESS_LINE_H_
#define INCR_CKPT_CLI_PROGRESS_LINE_H_

#include <cstdint>
#include <string>

namespace incr {

class ProgressLine {
 public:
  // "verify"
  explicit ProgressLine(std::string verb);
  ~ProgressLine();  // Clears the line.
  ProgressLine(const ProgressLine&) = delete;

  // May be called as often as one likes. `total` 0: unknown.
  void Show(double bytes, double total, const std::string& more);

  double elapsed_s() const;

 private:
  const std::string verb_;
  const bool terminal_;
  const int64_t start_us_;
  int64_t next_us_;
  bool shown_ = false;
};

}  // namespace incr

#endif  // INCR_CKPT_CLI_PROGRESS_LINE_H_
