// text_table.h — columns for people. Pure.
#ifndef INCR_CKPT_CLI_TEXT_TABLE_H_
#define INCR_CKPT_CLI_TEXT_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace incr {

class TextTable {
 public:
  // A title that starts with '>' is set flush right, its column with it.
  explicit TextTable(std::vector<std::string> titles);
  // As many cells as there are titles.
  void Add(std::vector<std::string> cells);
  // Two spaces between columns, none at the end of a line.
  std::string Format() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;  // the titles first
};

std::string FormatBytes(double bytes);     // "512 B", "1.5 KiB", "2.0 GiB"
std::string FormatMicros(double us);       // "640 us", "1.2 ms", "3.4 s"
std::string FormatSeconds(double s);       // "0.4 s", "75 s"

}  // namespace incr

#endif  // INCR_CKPT_CLI_TEXT_TABLE_H_
