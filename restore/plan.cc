#include "restore/plan.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/page_range.h"
#include "base/status.h"
#include "proto/image_check.h"

namespace incr {
namespace {

constexpr uint64_t kMargin = 1 << 20;        // stack guard gaps and the like
constexpr uint64_t kLowestChoice = 1 << 28;  // away from where programs and heaps begin

bool IsWritable(const pb::Mapping& mapping) { return (mapping.prot() & PROT_WRITE) != 0; }

class Planner {
 public:
  Planner(const pb::Image& image, const pb::Process& process) : image_(image), process_(process) {}

  absl::StatusOr<RestorePlan> Plan(const PageTable& table);

 private:
  void PlanHole(const pb::Mapping& mapping, int source, uint64_t first, uint64_t end);
  void PlanMapping(const pb::Mapping& mapping);
  void PlanAfterwards(const pb::Mapping& mapping, bool receives_pages);
  int FileSource(const pb::Mapping& mapping);
  int ObjectSource(uint32_t object);
  // Files the entry under its destination; true if the mapping's own memory receives it.
  bool PlanPage(const pb::Mapping& mapping, int source, const PageTableEntry& entry);

  const pb::Image& image_;
  const pb::Process& process_;
  RestorePlan plan_;
  std::map<std::tuple<std::string, uint64_t, uint64_t, bool>, int> file_sources_;
  std::map<uint32_t, int> object_sources_;
};

int Planner::FileSource(const pb::Mapping& mapping) {
  const bool shared = mapping.kind() == pb::Mapping::SHARED_FILE;
  const bool writable = shared && (mapping.may_write() || IsWritable(mapping));
  const auto key = std::make_tuple(mapping.file().path(), mapping.file().dev(),
                                   mapping.file().ino(), writable);
  auto [known, is_new] = file_sources_.try_emplace(key, plan_.sources.size());
  if (is_new) {
    PlannedSource source;
    source.file = mapping.file();
    source.writable = writable;
    plan_.sources.push_back(std::move(source));
  }
  if (!shared) plan_.sources[known->second].must_be_same = true;
  return known->second;
}

int Planner::ObjectSource(uint32_t object) {
  auto [known, is_new] = object_sources_.try_emplace(object, plan_.sources.size());
  if (is_new) {
    PlannedSource source;
    source.kind = PlannedSource::kSharedAnonymous;
    for (const pb::MemoryObject& candidate : image_.memory_objects()) {
      if (candidate.id() == object) source.size = candidate.size();
    }
    plan_.sources.push_back(std::move(source));
  }
  return known->second;
}

bool Planner::PlanPage(const pb::Mapping& mapping, int source, const PageTableEntry& entry) {
  const uint64_t address = entry.page * kPageSize;
  switch (mapping.kind()) {
    case pb::Mapping::ANONYMOUS:
      if (entry.id.is_zero_page()) return false;  // As fresh memory is.
      [[fallthrough]];
    case pb::Mapping::PRIVATE_FILE:
      plan_.private_pages.ids.push_back(entry.id);
      plan_.private_pages.offsets.push_back(address);
      return true;
    case pb::Mapping::SHARED_OBJECT:
    case pb::Mapping::SHARED_FILE: {
      const bool object = mapping.kind() == pb::Mapping::SHARED_OBJECT;
      if (object && entry.id.is_zero_page()) return false;
      if (!object && !plan_.sources[source].writable) return false;  // Nobody could have changed it.
      PlannedPages& pages = object ? plan_.object_pages : plan_.file_pages;
      pages.ids.push_back(entry.id);
      pages.offsets.push_back(mapping.offset() + (address - mapping.start()));
      pages.sources.push_back(source);
      return false;
    }
    default:
      return false;
  }
}

// Pages [first, end) have no entry. Only of a mapping that was writable are all pages saved.
void Planner::PlanHole(const pb::Mapping& mapping, int source, uint64_t first, uint64_t end) {
  if (mapping.kind() != pb::Mapping::SHARED_FILE || (mapping.prot() & PROT_WRITE) == 0) return;
  const uint64_t offset = mapping.offset() + first * kPageSize - mapping.start();
  const uint64_t file_end = plan_.sources[source].file.size();
  if (first >= end || offset >= file_end) return;
  plan_.file_holes.push_back(
      {source, offset, std::min((end - first) * kPageSize, file_end - offset)});
}

void Planner::PlanMapping(const pb::Mapping& mapping) {
  const AddressRange range{mapping.start(), mapping.end()};
  if (mapping.kind() == pb::Mapping::VSYSCALL) return;
  plan_.occupied.push_back(range);
  if (mapping.kind() == pb::Mapping::VDSO) plan_.vdso = range;
  if (mapping.kind() == pb::Mapping::VVAR) plan_.vvars.push_back(range);
  if (mapping.kind() == pb::Mapping::VDSO || mapping.kind() == pb::Mapping::VVAR) return;
  PlannedMap map;
  map.range = range;
  map.prot = static_cast<int>(mapping.prot());
  map.flags = MAP_FIXED_NOREPLACE;
  if (mapping.no_reserve()) map.flags |= MAP_NORESERVE;
  switch (mapping.kind()) {
    case pb::Mapping::ANONYMOUS:
      map.flags |= MAP_PRIVATE | MAP_ANONYMOUS;
      if (mapping.grows_down()) map.flags |= MAP_GROWSDOWN;
      break;
    case pb::Mapping::PRIVATE_FILE:
      map.flags |= MAP_PRIVATE;
      map.source = FileSource(mapping);
      map.offset = mapping.offset();
      break;
    case pb::Mapping::SHARED_FILE:
      map.flags |= MAP_SHARED;
      map.source = FileSource(mapping);
      map.offset = mapping.offset();
      break;
    default:
      map.flags |= MAP_SHARED;
      map.source = ObjectSource(mapping.memory_object());
      map.offset = mapping.offset();
      break;
  }
  plan_.maps.push_back(map);
}

void Planner::PlanAfterwards(const pb::Mapping& mapping, bool receives_pages) {
  PlannedMap& map = plan_.maps.back();
  if (receives_pages && (map.prot & PROT_WRITE) == 0) {
    plan_.protects.push_back({map.range, map.prot});
    map.prot |= PROT_READ | PROT_WRITE;
  }
  for (uint32_t advice : mapping.advice()) {
    plan_.advice.push_back({map.range, static_cast<int>(advice)});
  }
  absl::string_view name = mapping.name();
  if (absl::ConsumeSuffix(&name, "]") &&
      (absl::ConsumePrefix(&name, "[anon:") || absl::ConsumePrefix(&name, "[anon_shmem:"))) {
    plan_.names.push_back({map.range, std::string(name)});
  }
  if (mapping.locked()) plan_.locks.push_back(map.range);
}

absl::StatusOr<RestorePlan> Planner::Plan(const PageTable& table) {
  auto entry = std::lower_bound(table.begin(), table.end(), process_.space(),
                                [](const PageTableEntry& e, uint32_t space) { return e.space < space; });
  const auto in_space = [&] { return entry != table.end() && entry->space == process_.space(); };
  for (const pb::Mapping& mapping : process_.mappings()) {
    PlanMapping(mapping);
    const bool planned = !plan_.maps.empty() && plan_.maps.back().range.start == mapping.start();
    const int source = planned ? plan_.maps.back().source : -1;
    for (; in_space() && entry->page < mapping.start() / kPageSize; ++entry) {
      ++plan_.pages_without_mapping;
    }
    bool receives_pages = false;
    uint64_t next_page = mapping.start() / kPageSize;
    for (; in_space() && entry->page < mapping.end() / kPageSize; ++entry) {
      if (planned) receives_pages |= PlanPage(mapping, source, *entry);
      if (planned) PlanHole(mapping, source, next_page, entry->page);
      next_page = entry->page + 1;
    }
    if (planned) PlanHole(mapping, source, next_page, mapping.end() / kPageSize);
    if (planned) PlanAfterwards(mapping, receives_pages);
  }
  for (; in_space(); ++entry) ++plan_.pages_without_mapping;
  return std::move(plan_);
}

std::vector<AddressRange> Merged(std::vector<AddressRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const AddressRange& a, const AddressRange& b) { return a.start < b.start; });
  std::vector<AddressRange> merged;
  for (const AddressRange& range : ranges) {
    if (!merged.empty() && range.start <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, range.end);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

}  // namespace

absl::StatusOr<RestorePlan> PlanRestore(const pb::Image& image, const pb::Process& process,
                                        const PageTable& table) {
  return Planner(image, process).Plan(table);
}

absl::StatusOr<AddressRange> FindFreeRange(std::vector<AddressRange> taken, uint64_t size) {
  uint64_t candidate = kLowestChoice;
  for (const AddressRange& range : Merged(std::move(taken))) {
    if (range.end <= candidate) continue;
    if (range.start >= candidate + kMargin && range.start - candidate - kMargin >= size) break;
    candidate = range.end + kMargin;
  }
  if (candidate >= kTaskSize || kTaskSize - candidate < size + kMargin) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no ", size, " bytes of address space are free of the process's mappings"));
  }
  return AddressRange{candidate, candidate + size};
}

std::vector<AddressRange> Complement(std::vector<AddressRange> keep) {
  std::vector<AddressRange> gaps;
  uint64_t position = 0;
  for (const AddressRange& range : Merged(std::move(keep))) {
    if (range.start > position) gaps.push_back({position, range.start});
    position = std::max(position, range.end);
  }
  if (position < kTaskSize) gaps.push_back({position, kTaskSize});
  return gaps;
}

}  // namespace incr
