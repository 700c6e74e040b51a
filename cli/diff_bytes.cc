#include "cli/diff_bytes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/page_range.h"
#include "base/status.h"
#include "cli/json.h"
#include "store/page_delta.h"

namespace incr {
namespace {

constexpr size_t kLineBytes = 8;
constexpr size_t kBatchPages = 128;  // of each side in memory at a time

bool ParseHex(absl::string_view text, uint64_t* value) {
  absl::ConsumePrefix(&text, "0x");
  return !text.empty() && absl::SimpleHexAtoi(text, value);
}

bool ParseLength(absl::string_view text, uint64_t* value) {
  if (absl::StartsWith(text, "0x")) return ParseHex(text, value);
  return absl::SimpleAtoi(text, value);
}

std::vector<AddressRange> Joined(std::vector<AddressRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const AddressRange& a, const AddressRange& b) { return a.start < b.start; });
  std::vector<AddressRange> joined;
  for (const AddressRange& range : ranges) {
    if (!joined.empty() && range.start <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

std::optional<PageId> Lookup(const PageTable& table, uint32_t space, uint64_t page) {
  size_t hint = 0;
  const PageTableEntry* entry = FindEntry(table, space, page, &hint);
  return entry == nullptr ? std::nullopt : std::make_optional(entry->id);
}

// Reads both sides of some pages and hands them to `lines`.
absl::Status CompareBatch(const StoreReader& store, const std::vector<uint64_t>& pages,
                          const std::vector<PageSource>& sources, ByteLines* lines) {
  std::vector<PageId> ids;
  std::vector<size_t> places;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (!sources[i].id.has_value()) continue;
    ids.push_back(*sources[i].id);
    places.push_back(i);
  }
  std::vector<uint8_t> content(sources.size() * kPageSize);
  INCR_RETURN_IF_ERROR(store.ReadPages(ids, [&](size_t i, const uint8_t* page) {
    std::memcpy(content.data() + places[i] * kPageSize, page, kPageSize);
    return absl::OkStatus();
  }));
  const auto side = [&](size_t i) -> ByteLines::Side {
    if (!sources[i].id.has_value()) return {nullptr, sources[i].why};
    return {content.data() + i * kPageSize, ""};
  };
  for (size_t i = 0; i < pages.size(); ++i) lines->Add(pages[i], side(2 * i), side(2 * i + 1));
  return absl::OkStatus();
}

}  // namespace

std::optional<AddressRange> ParseAddressRange(absl::string_view text) {
  AddressRange range;
  uint64_t length = 0;
  const std::vector<absl::string_view> bounds = absl::StrSplit(text, '-');
  if (bounds.size() == 2 && ParseHex(bounds[0], &range.start) && ParseHex(bounds[1], &range.end)) {
    return range;
  }
  const std::vector<absl::string_view> sum = absl::StrSplit(text, '+');
  if (sum.size() != 2 || !ParseHex(sum[0], &range.start) || !ParseLength(sum[1], &length)) {
    return std::nullopt;
  }
  range.end = length > UINT64_MAX - range.start ? UINT64_MAX : range.start + length;
  return range;
}

absl::StatusOr<std::vector<AddressRange>> ParseRanges(absl::string_view text,
                                                      const EpochSide& before,
                                                      const EpochSide& after) {
  if (const std::optional<AddressRange> range = ParseAddressRange(text)) {
    if (range->start < range->end) return std::vector<AddressRange>{*range};
    return absl::InvalidArgumentError(
        absl::StrCat("--bytes ", CleanText(text), ": ends before it begins"));
  }
  std::vector<AddressRange> ranges;
  for (const EpochSide* side : {&before, &after}) {
    for (const pb::Mapping& mapping : side->image.processes(0).mappings()) {
      const std::string& name = mapping.has_file() ? mapping.file().path() : mapping.name();
      if (!name.empty() && name == text) ranges.push_back({mapping.start(), mapping.end()});
    }
  }
  if (!ranges.empty()) return Joined(std::move(ranges));
  return absl::InvalidArgumentError(absl::StrCat(
      "--bytes ", CleanText(text),
      ": must be START-END or START+LENGTH (addresses in hexadecimal), or a mapping's name as show prints it"));
}

PageSource SourceOf(const pb::Process& process, const PageTable& table, uint64_t page) {
  if (const std::optional<PageId> id = Lookup(table, process.space(), page)) return {id, ""};
  const pb::Mapping* mapping = MappingOf(process, page);
  if (mapping == nullptr) return {std::nullopt, "not mapped"};
  if (mapping->excluded()) return {std::nullopt, "not saved"};
  if (mapping->kind() == pb::Mapping::ANONYMOUS || mapping->kind() == pb::Mapping::SHARED_OBJECT) {
    return {kZeroPageId, ""};
  }
  if (mapping->file_space() != 0) {
    const uint64_t of_file =
        mapping->offset() / kPageSize + page - mapping->start() / kPageSize;
    if (const auto id = Lookup(table, mapping->file_space(), of_file)) return {id, ""};
  }
  return {std::nullopt, "the file's"};
}

ByteLines::ByteLines(std::vector<AddressRange> ranges, uint64_t max_lines)
    : ranges_(std::move(ranges)), max_lines_(max_lines) {
  for (const AddressRange& range : ranges_) {
    result_.add_ranges(absl::StrCat("0x", absl::Hex(range.start), "-0x", absl::Hex(range.end)));
  }
}

pb::DiffLine* ByteLines::NewLine(uint64_t address) {
  if (static_cast<uint64_t>(result_.lines_size()) >= max_lines_) {
    result_.set_lines_left_out(result_.lines_left_out() + 1);
    return nullptr;
  }
  pb::DiffLine* line = result_.add_lines();
  line->set_address(absl::StrCat("0x", absl::Hex(address)));
  return line;
}

void ByteLines::Add(uint64_t page, const Side& before, const Side& after) {
  const uint64_t address = page * kPageSize;
  if (before.page == nullptr || after.page == nullptr) {
    result_.set_pages_unknown(result_.pages_unknown() + 1);
    pb::DiffLine* line = NewLine(address);
    if (line == nullptr) return;
    line->set_why_before(before.page == nullptr ? before.why : "saved");
    line->set_why_after(after.page == nullptr ? after.why : "saved");
    return;
  }
  for (const AddressRange& range : ranges_) {
    const uint64_t start = std::max(range.start, address);
    const uint64_t end = std::min(range.end, address + kPageSize);
    for (uint64_t at = start; at < end;) {
      const uint64_t line_end = std::min(end, (at / kLineBytes + 1) * kLineBytes);
      const uint8_t* old_bytes = before.page + (at - address);
      const uint8_t* new_bytes = after.page + (at - address);
      const size_t n = line_end - at;
      size_t different = 0;
      for (size_t i = 0; i < n; ++i) different += old_bytes[i] != new_bytes[i];
      if (different > 0) {
        result_.set_bytes_different(result_.bytes_different() + different);
        if (pb::DiffLine* line = NewLine(at)) {
          const auto hex = [n](const uint8_t* bytes) {
            return absl::BytesToHexString({reinterpret_cast<const char*>(bytes), n});
          };
          line->set_bytes_before(hex(old_bytes));
          line->set_bytes_after(hex(new_bytes));
        }
      }
      at = line_end;
    }
  }
}

absl::Status CompareBytes(const StoreReader& store, const EpochSide& before,
                          const EpochSide& after, const PageChanges& changes, ByteLines* lines,
                          absl::FunctionRef<void()> tick) {
  const std::string& job = after.record.job();
  INCR_ASSIGN_OR_RETURN(const PageTable old_table,
                        store.LoadPageTable(job, before.record.epoch()));
  INCR_ASSIGN_OR_RETURN(const PageTable new_table, store.LoadPageTable(job, after.record.epoch()));
  const pb::Process& old_process = before.image.processes(0);
  const pb::Process& new_process = after.image.processes(0);
  const auto wanted = [&](const PageChange& change) {
    return change.space == new_process.space() &&
           std::any_of(lines->ranges().begin(), lines->ranges().end(), [&](const AddressRange& r) {
             return change.page * kPageSize < r.end && (change.page + 1) * kPageSize > r.start;
           });
  };
  std::vector<uint64_t> pages;
  std::vector<PageSource> sources;  // two a page: before, after
  for (size_t i = 0; i <= changes.size(); ++i) {
    if (i < changes.size() && wanted(changes[i])) {
      pages.push_back(changes[i].page);
      sources.push_back(SourceOf(old_process, old_table, changes[i].page));
      sources.push_back(SourceOf(new_process, new_table, changes[i].page));
    }
    if (pages.size() < kBatchPages && i < changes.size()) continue;
    INCR_RETURN_IF_ERROR(CompareBatch(store, pages, sources, lines));
    pages.clear();
    sources.clear();
    tick();
  }
  return absl::OkStatus();
}

}  // namespace incr
