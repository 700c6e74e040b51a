#include "checkpoint/excluded_memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

bool IsExcluded(const MemoryMapping& mapping) {
  if (!mapping.HasFlag("dd")) return false;
  // A driver's mapping: may not be expanded, device memory.
  for (const char* drivers : {"de", "io", "pf"}) {
    if (mapping.HasFlag(drivers)) return false;
  }
  const MappingClass kind = ClassifyMapping(mapping);
  return kind == MappingClass::kPrivateAnonymous || kind == MappingClass::kPrivateFile ||
         IsSharedAnonymous(mapping);
}

// Whether Record decides about the advice of such a mapping.
bool MayBeExcluded(const pb::Mapping& mapping) {
  return mapping.kind() == pb::Mapping::ANONYMOUS || mapping.kind() == pb::Mapping::PRIVATE_FILE ||
         mapping.kind() == pb::Mapping::SHARED_OBJECT;
}

// The flags that the mapping was described by may be of another moment. Advice that was not there in the
// freeze must not come back: the restored process, tracked again, would lose what it means to keep.
void SetDontDump(bool excluded, pb::Mapping* mapping) {
  auto* advice = mapping->mutable_advice();
  advice->erase(std::remove(advice->begin(), advice->end(), MADV_DONTDUMP), advice->end());
  if (excluded) mapping->add_advice(MADV_DONTDUMP);
}

}  // namespace

PageSet DontDumpPages(const MemoryMap& flags) {
  PageSet pages;
  for (const MemoryMapping& mapping : flags) {
    if (IsExcluded(mapping)) pages.Add(mapping.pages());
  }
  return pages;
}

void ExcludedMemory::Begin(const MemoryMap& flags) {
  decided_.Clear();
  candidates_ = include_all_ ? PageSet() : DontDumpPages(flags);
}

PageSet ExcludedMemory::HoldBack(PageSet* written) const {
  if (candidates_.empty()) return PageSet();
  PageSet held = written->Intersect(candidates_);
  written->Remove(held);
  return held;
}

absl::StatusOr<PageSet> ExcludedMemory::Decide(const ProcessHandle& target) {
  if (candidates_.empty()) return PageSet();
  INCR_ASSIGN_OR_RETURN(
      const MemoryMap flags,
      ReadSmapsBelow(target, candidates_.runs().back().end() * kPageSize));
  decided_ = DontDumpPages(flags);
  return decided_;
}

void ExcludedMemory::Record(const PageSet& left_out, pb::Process* process,
                            pb::Image* image) const {
  if (include_all_) return;
  uint64_t pages = 0;
  int mappings = 0;
  for (pb::Mapping& mapping : *process->mutable_mappings()) {
    if (!MayBeExcluded(mapping)) continue;
    // A VMA has the advice or has it not: the first page tells.
    const bool excluded = decided_.Contains(mapping.start() / kPageSize);
    SetDontDump(excluded, &mapping);
    if (!excluded) continue;
    PageSet here;
    here.Add({mapping.start() / kPageSize, (mapping.end() - mapping.start()) / kPageSize});
    mapping.set_excluded(true);
    mapping.set_excluded_pages(left_out.Intersect(here).page_count());
    pages += mapping.excluded_pages();
    ++mappings;
  }
  if (mappings == 0) return;
  image->add_warnings(absl::StrCat(
      pages * kPageSize, " bytes in ", mappings, mappings == 1 ? " mapping" : " mappings",
      " are marked MADV_DONTDUMP and not saved; restored, they are empty (--include-dontdump saves them)"));
}

}  // namespace incr
