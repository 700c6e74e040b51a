// diff_bytes.h — the bytes that differ, side by side: `diff --bytes RANGE`.
#ifndef INCR_CKPT_CLI_DIFF_BYTES_H_
#define INCR_CKPT_CLI_DIFF_BYTES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/diff_image.h"
#include "proto/control.pb.h"
#include "store/page_table.h"
#include "store/store.h"

namespace incr {

struct AddressRange {
  uint64_t start = 0, end = 0;
  bool operator==(const AddressRange&) const = default;
};

// "START-END" or "START+LENGTH"; nothing if `text` is neither. The end may be before the start.
std::optional<AddressRange> ParseAddressRange(absl::string_view text);

// START-END, START+LENGTH, or a mapping's name in either epoch; numbers are hexadecimal, 0x or not, as in
// /proc/PID/maps; LENGTH is decimal unless it begins with 0x. Pure.
absl::StatusOr<std::vector<AddressRange>> ParseRanges(absl::string_view text,
                                                      const EpochSide& before,
                                                      const EpochSide& after);

// What a page of a process held: an id, or why the epoch does not say. Pure.
struct PageSource {
  std::optional<PageId> id;
  const char* why = "";
};
PageSource SourceOf(const pb::Process& process, const PageTable& table, uint64_t page);

// Collects what differs, page by page in ascending order. Pure.
class ByteLines {
 public:
  ByteLines(std::vector<AddressRange> ranges, uint64_t max_lines);
  // Null: not known, and why.
  struct Side {
    const uint8_t* page = nullptr;
    const char* why = "";
  };
  void Add(uint64_t page, const Side& before, const Side& after);
  const std::vector<AddressRange>& ranges() const { return ranges_; }
  pb::DiffBytes Take() && { return std::move(result_); }

 private:
  pb::DiffLine* NewLine(uint64_t address);  // null: enough

  const std::vector<AddressRange> ranges_;  // sorted, disjoint
  const uint64_t max_lines_;
  pb::DiffBytes result_;
};

// Reads the pages that differ within `lines`' ranges, a few at a time. `tick` is called now and then.
absl::Status CompareBytes(const StoreReader& store, const EpochSide& before,
                          const EpochSide& after, const PageChanges& changes, ByteLines* lines,
                          absl::FunctionRef<void()> tick);

}  // namespace incr

#endif  // INCR_CKPT_CLI_DIFF_BYTES_H_
