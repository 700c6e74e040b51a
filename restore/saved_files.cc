#include "restore/saved_files.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/page_range.h"
#include "restore/sources.h"

namespace incr {
namespace {

// A hostile image may map one small file over and over.
constexpr size_t kMaxRebuiltPages = size_t{1} << 28;  // 1 TiB

bool Before(const PageTableEntry& a, const PageTableEntry& b) {
  return std::make_pair(a.space, a.page) < std::make_pair(b.space, b.page);
}

PageTable::const_iterator At(const PageTable& table, uint32_t space, uint64_t page) {
  return std::lower_bound(table.begin(), table.end(), PageTableEntry{space, page, {}}, Before);
}

// The saved pages of the file, where `mapping` shows them.
void Place(const PageTable& table, const pb::Mapping& mapping, uint32_t space, PageTable* placed) {
  const uint64_t first = mapping.offset() / kPageSize;
  const uint64_t end = first + (mapping.end() - mapping.start()) / kPageSize;
  const auto last = At(table, mapping.file_space(), end);
  for (auto entry = At(table, mapping.file_space(), first);
       entry != last && placed->size() < kMaxRebuiltPages; ++entry) {
    placed->push_back({space, mapping.start() / kPageSize + (entry->page - first), entry->id});
  }
}

}  // namespace

std::map<uint32_t, std::string> FindChangedFiles(const pb::Process& process) {
  std::map<uint32_t, std::string> changed;
  std::set<uint32_t> seen;
  for (const pb::Mapping& mapping : process.mappings()) {
    if (mapping.file_space() == 0 || !seen.insert(mapping.file_space()).second) continue;
    const auto file = OpenSavedFile(mapping.file(), /*writable=*/false, /*must_be_same=*/true);
    if (!file.ok()) changed[mapping.file_space()] = std::string(file.status().message());
  }
  return changed;
}

bool ProgramIsMapped(const pb::Process& process) {
  return std::any_of(process.mappings().begin(), process.mappings().end(),
                     [&](const pb::Mapping& mapping) {
                       return mapping.has_file() && mapping.file().dev() == process.exe().dev() &&
                              mapping.file().ino() == process.exe().ino();
                     });
}

absl::Status RebuildFromSavedPages(const std::map<uint32_t, std::string>& spaces, pb::Image* image,
                                   pb::Process* process, PageTable* table) {
  if (spaces.empty()) return absl::OkStatus();
  PageTable placed;  // By address, as the mappings are.
  for (pb::Mapping& mapping : *process->mutable_mappings()) {
    if (mapping.file_space() == 0 || !spaces.contains(mapping.file_space())) continue;
    Place(*table, mapping, process->space(), &placed);
    mapping.set_kind(pb::Mapping::ANONYMOUS);
    mapping.clear_file();
    mapping.clear_offset();
    mapping.clear_file_space();
  }
  if (placed.size() >= kMaxRebuiltPages) {
    return absl::ResourceExhaustedError("the saved pages of mapped files are more than 1 TiB");
  }
  // Of equal keys the first range's stays: the process's own pages.
  PageTable merged;
  merged.reserve(table->size() + placed.size());
  std::set_union(table->begin(), table->end(), placed.begin(), placed.end(),
                 std::back_inserter(merged), Before);
  *table = std::move(merged);
  for (const auto& [space, why] : spaces) {
    image->add_warnings(
        absl::StrCat(why, "; its pages come from the epoch, as memory of no file"));
  }
  return absl::OkStatus();
}

}  // namespace incr
