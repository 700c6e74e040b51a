#include "cli/diff_image.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/page_range.h"
#include "cli/diff_mappings.h"
#include "cli/epoch_rows.h"
#include "cli/json.h"
#include "cli/show_image.h"
#include "cli/text_table.h"
#include "proto/image_check.h"

namespace incr {
namespace {

std::string Hex(uint64_t value) { return absl::StrCat("0x", absl::Hex(value)); }
std::string Number(double value) { return absl::StrFormat("%.0f", value); }

const pb::Mapping* MappingOfFileSpace(const pb::Process& process, uint32_t space) {
  for (const pb::Mapping& mapping : process.mappings()) {
    if (mapping.file_space() == space) return &mapping;
  }
  return nullptr;
}

template <typename Row>
void Count(PageChangeKind kind, Row* row) {
  switch (kind) {
    case PageChangeKind::kChanged: row->set_pages_changed(row->pages_changed() + 1); break;
    case PageChangeKind::kAdded: row->set_pages_added(row->pages_added() + 1); break;
    case PageChangeKind::kGone: row->set_pages_gone(row->pages_gone() + 1); break;
  }
  row->set_bytes_changed(row->pages_changed() * kPageSize);
  row->set_bytes_added(row->pages_added() * kPageSize);
  row->set_bytes_gone(row->pages_gone() * kPageSize);
}

// Sorts pages to the mappings that they lie in.
class Regions {
 public:
  Regions(const pb::Process& before, const pb::Process& after) : before_(before), after_(after) {}

  void Add(const PageChange& change) {
    if (change.space >= kFirstFileSpace) return Count(change.kind, FilePages(change));
    const pb::Mapping* mapping =
        change.space == after_.space() ? MappingOf(after_, change.page) : nullptr;
    const bool only_before = mapping == nullptr;
    if (only_before && change.space == before_.space()) mapping = MappingOf(before_, change.page);
    Count(change.kind, Of(change, mapping, only_before));
  }

  void MoveTo(pb::DiffReply* reply) {
    for (auto& [key, region] : regions_) *reply->add_regions() = std::move(region);
  }

 private:
  using Key = std::tuple<uint32_t, uint64_t, bool>;  // space, start, only_before

  pb::DiffRegion* Of(const PageChange& change, const pb::Mapping* mapping, bool only_before) {
    // Outside of every mapping there should be none; if there are, they count.
    const Key key(change.space, mapping != nullptr ? mapping->start() : 0, only_before);
    const auto [found, is_new] = regions_.try_emplace(key);
    pb::DiffRegion& region = found->second;
    if (!is_new) return &region;
    region.set_only_before(mapping != nullptr && only_before);
    region.set_kind("unknown");
    if (mapping == nullptr) return &region;
    const pb::ShowMapping shown = DescribeMapping(*mapping);
    region.set_start(shown.start());
    region.set_end(shown.end());
    region.set_access(shown.access());
    region.set_kind(shown.kind());
    region.set_name(shown.name());
    return &region;
  }

  // A file's pages, one region for all mappings of it, from its first page that differs to its last.
  pb::DiffRegion* FilePages(const PageChange& change) {
    const auto [found, is_new] = regions_.try_emplace(Key(change.space, 0, false));
    pb::DiffRegion& region = found->second;
    region.set_end(Hex((change.page + 1) * kPageSize));
    if (!is_new) return &region;
    region.set_start(Hex(change.page * kPageSize));
    region.set_kind("file-pages");
    const pb::Mapping* mapping = MappingOfFileSpace(after_, change.space);
    if (mapping == nullptr) {
      mapping = MappingOfFileSpace(before_, change.space);
      region.set_only_before(mapping != nullptr);
    }
    if (mapping != nullptr) region.set_name(CleanText(mapping->file().path()));
    return &region;
  }

  const pb::Process& before_;
  const pb::Process& after_;
  std::map<Key, pb::DiffRegion> regions_;
};

void DiffThreads(const pb::Process& before, const pb::Process& after, pb::DiffReply* reply) {
  std::map<uint32_t, std::pair<const pb::Thread*, const pb::Thread*>> threads;
  for (const pb::Thread& thread : before.threads()) threads[thread.tid()].first = &thread;
  for (const pb::Thread& thread : after.threads()) threads[thread.tid()].second = &thread;
  for (const auto& [tid, sides] : threads) {
    if (sides.first != nullptr && sides.second != nullptr) continue;
    pb::DiffThread* row = reply->add_threads();
    row->set_change(sides.first == nullptr ? "came" : "went");
    row->set_tid(tid);
    row->set_name(CleanText((sides.first != nullptr ? sides.first : sides.second)->comm()));
  }
}

void DiffFiles(const EpochSide& before, const EpochSide& after, pb::DiffReply* reply) {
  using Key = std::tuple<uint32_t, std::string, std::string>;
  const auto files_of = [](const EpochSide& side) {
    std::set<Key> files;
    for (const pb::ShowFile& row : DescribeFiles(side.image.processes(0), side.image)) {
      files.emplace(row.fd(), row.kind(), row.name());
    }
    return files;
  };
  const std::set<Key> old = files_of(before), now = files_of(after);
  const auto add = [&](const char* change, const Key& key) {
    pb::DiffFile* row = reply->add_files();
    row->set_change(change);
    row->set_fd(std::get<0>(key));
    row->set_kind(std::get<1>(key));
    row->set_name(std::get<2>(key));
  };
  for (const Key& key : old) {
    if (!now.count(key)) add("went", key);
  }
  for (const Key& key : now) {
    if (!old.count(key)) add("came", key);
  }
  std::stable_sort(reply->mutable_files()->begin(), reply->mutable_files()->end(),
                   [](const pb::DiffFile& a, const pb::DiffFile& b) { return a.fd() < b.fd(); });
}

std::string FormatMapping(const pb::DiffMapping& row) {
  const std::string range = absl::StrCat(row.start(), "-", row.end());
  const std::string what = absl::StrCat(row.kind(), row.name().empty() ? "" : " ", row.name());
  if (row.change() == "protection") {
    return absl::StrCat("protection: ", range, " ", row.access_before(), " -> ", row.access(), " ",
                        what, "\n");
  }
  const std::string from =
      row.start_before().empty() ? "" : absl::StrCat("from ", row.start_before(), " to ");
  return absl::StrCat("mapping ", row.change(), ": ", from, range, " ", row.access(), " ", what,
                      "\n");
}

std::string FormatBytesView(const pb::DiffBytes& bytes) {
  std::string text = absl::StrCat("\n", Number(bytes.bytes_different()), " bytes differ in");
  for (const std::string& range : bytes.ranges()) absl::StrAppend(&text, " ", range);
  if (bytes.pages_unknown() > 0) {
    absl::StrAppend(&text, ", and ", Number(bytes.pages_unknown()),
                    " pages whose content one of the epochs does not hold");
  }
  text += "\n";
  TextTable table({"ADDRESS", "BEFORE", "AFTER"});
  const auto side = [](const std::string& hex, const std::string& why) {
    if (hex.empty()) return absl::StrCat("(", why, ")");
    std::string spaced;
    for (size_t i = 0; i < hex.size(); i += 2) {
      absl::StrAppend(&spaced, i == 0 ? "" : " ", hex.substr(i, 2));
    }
    std::string letters;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
      const int byte = std::stoi(hex.substr(i, 2), nullptr, 16);
      letters.push_back(byte >= 0x20 && byte < 0x7f ? static_cast<char>(byte) : '.');
    }
    return absl::StrCat(spaced, "  ", letters);
  };
  for (const pb::DiffLine& line : bytes.lines()) {
    table.Add({line.address(), side(line.bytes_before(), line.why_before()),
               side(line.bytes_after(), line.why_after())});
  }
  if (bytes.lines_size() > 0) text += table.Format();
  if (bytes.lines_left_out() > 0) {
    absl::StrAppend(&text, Number(bytes.lines_left_out()), " more lines (--max-lines)\n");
  }
  return text;
}

}  // namespace

const pb::Mapping* MappingOf(const pb::Process& process, uint64_t page) {
  const auto& mappings = process.mappings();
  auto above = std::upper_bound(
      mappings.begin(), mappings.end(), page * kPageSize,
      [](uint64_t address, const pb::Mapping& mapping) { return address < mapping.start(); });
  if (above == mappings.begin()) return nullptr;
  --above;
  return page * kPageSize < above->end() ? &*above : nullptr;
}

pb::DiffReply DescribeDiff(const EpochSide& before, const EpochSide& after,
                           const PageChanges& changes) {
  pb::DiffReply reply;
  const pb::EpochRow old_row = ToRow(before.record), new_row = ToRow(after.record);
  reply.set_job(new_row.job());
  reply.set_before(old_row.epoch());
  reply.set_after(new_row.epoch());
  reply.set_time_before(old_row.time());
  reply.set_time_after(new_row.time());
  const pb::Process& old_process = before.image.processes(0);
  const pb::Process& new_process = after.image.processes(0);
  Regions regions(old_process, new_process);
  for (const PageChange& change : changes) {
    regions.Add(change);
    Count(change.kind, &reply);
  }
  regions.MoveTo(&reply);
  for (pb::DiffMapping& row : DiffMappings(before.image, after.image, changes)) {
    *reply.add_mappings() = std::move(row);
  }
  DiffThreads(old_process, new_process, &reply);
  DiffFiles(before, after, &reply);
  return reply;
}

std::string FormatDiff(const pb::DiffReply& reply) {
  std::string text = absl::StrCat("job ", reply.job(), ", from epoch ", reply.before(), " (",
                                  reply.time_before(), ") to epoch ", reply.after(), " (",
                                  reply.time_after(), ")\n");
  const auto amount = [](double pages, const char* how) {
    return absl::StrCat(Number(pages), " ", how, " (", FormatBytes(pages * kPageSize), ")");
  };
  absl::StrAppend(&text, "pages: ", amount(reply.pages_changed(), "changed"), ", ",
                  amount(reply.pages_added(), "added"), ", ", amount(reply.pages_gone(), "gone"),
                  "\n");
  if (reply.regions_size() > 0) {
    TextTable table({"REGION", "ACCESS", "KIND", ">CHANGED", ">ADDED", ">GONE", ">BYTES", "NAME"});
    for (const pb::DiffRegion& row : reply.regions()) {
      table.Add({row.start().empty() ? "-" : absl::StrCat(row.start(), "-", row.end()),
                 row.access(), row.kind(), Number(row.pages_changed()), Number(row.pages_added()),
                 Number(row.pages_gone()),
                 FormatBytes(row.bytes_changed() + row.bytes_added() + row.bytes_gone()),
                 absl::StrCat(row.name(), row.only_before() ? " (went)" : "")});
    }
    absl::StrAppend(&text, "\n", table.Format());
  }
  if (reply.mappings_size() + reply.threads_size() + reply.files_size() > 0) text += "\n";
  for (const pb::DiffMapping& row : reply.mappings()) text += FormatMapping(row);
  for (const pb::DiffThread& row : reply.threads()) {
    absl::StrAppend(&text, "thread ", row.change(), ": ", row.tid(), " ", row.name(), "\n");
  }
  for (const pb::DiffFile& row : reply.files()) {
    absl::StrAppend(&text, "file ", row.change(), ": fd ", row.fd(), " ", row.kind(), " ",
                    row.name(), "\n");
  }
  if (reply.has_bytes()) text += FormatBytesView(reply.bytes());
  return text;
}

}  // namespace incr
