#include "tracker/uffd_registry.h"

#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_format.h"
#include "process/userfaultfd.h"
#include "tracker/content_view.h"

namespace incr {
namespace {

constexpr size_t kMaxWarnings = 5;

// Another userfaultfd has it.
bool IsTaken(const absl::Status& status) { return absl::IsAlreadyExists(status); }

// Calls `visit` for each private mapping with a page in `pages`.
void ForEachMappingOf(const MemoryMap& map, const PageSet& pages,
                      absl::FunctionRef<void(const MemoryMapping&)> visit) {
  auto run = pages.runs().begin();
  for (const MemoryMapping& mapping : map) {
    const PageRange range = mapping.pages();
    while (run != pages.runs().end() && run->end() <= range.first) ++run;
    if (run == pages.runs().end()) break;
    if (run->first >= range.end() || !IsPrivate(mapping)) continue;
    visit(mapping);
  }
}

}  // namespace

// Suspect until the kernel has cleared all of `range`; it stops at the first mapping that is not
// registered.
absl::Status UffdRegistry::Clear(PageRange range) {
  absl::Status status = WriteProtect(uffd_.get(), range, /*protect=*/false);
  if (status.ok()) suspect_.Remove(range);
  return status;
}

void UffdRegistry::RegisterFrozen(const MemoryMap& map, const PageSet& unregistered) {
  warnings_.clear();
  warned_of_.Clear();
  ForEachMappingOf(map, unregistered, [&](const MemoryMapping& mapping) {
    const PageRange pages = mapping.pages();
    const absl::Status status = RegisterWriteProtect(uffd_.get(), pages);
    if (status.ok()) {
      suspect_.Add(pages);  // For ClearSuspects.
    } else {
      Warn(mapping, status);
    }
  });
  FindForeign(map);
}

// To register again what is ours changes nothing and costs little; whatever else is in the span has no
// content yet, or could not be registered.
void UffdRegistry::FindForeign(const MemoryMap& map) {
  foreign_.Clear();
  looked_ = true;
  for (const PageRange& span : PrivateSpans(map)) {
    if (RegisterWriteProtect(uffd_.get(), span).ok()) continue;
    PageSet here;
    here.Add(span);
    ForEachMappingOf(map, here, [&](const MemoryMapping& mapping) {
      const absl::Status status = RegisterWriteProtect(uffd_.get(), mapping.pages());
      if (!IsTaken(status)) return;
      foreign_.Add(mapping.pages());
      if (!warned_of_.Contains(mapping.pages().first)) Warn(mapping, status);
    });
  }
}

void UffdRegistry::Warn(const MemoryMapping& mapping, const absl::Status& why) {
  warned_of_.Add(mapping.pages());
  const std::string name = mapping.name.empty() ? "(anonymous)" : mapping.name;
  warnings_.push_back(absl::StrFormat(
      "memory at %x-%x %s cannot be tracked, it is saved whole each time: %s", mapping.start,
      mapping.end, name,
      IsTaken(why) ? "another userfaultfd has it, the program's own or another tracker's"
                   : std::string(why.message())));
}

std::vector<std::string> UffdRegistry::warnings() const {
  if (warnings_.size() <= kMaxWarnings) return warnings_;
  std::vector<std::string> few(warnings_.begin(), warnings_.begin() + kMaxWarnings);
  few.push_back(absl::StrFormat("and so are %d mappings more", warnings_.size() - kMaxWarnings));
  return few;
}

const PageSet& UffdRegistry::ClearSuspects(
    const MemoryMap& map, absl::FunctionRef<absl::StatusOr<PageSet>(PageRange)> protected_in) {
  const PageSet suspect = std::move(suspect_);
  suspect_.Clear();  // What is not mapped now, or is not private, has no bits of ours.
  ForEachMappingOf(map, suspect, [&](const MemoryMapping& mapping) {
    const PageRange pages = mapping.pages();
    suspect_.Add(pages);
    const absl::StatusOr<PageSet> found = protected_in(pages);
    if (found.ok() && found->empty()) {
      suspect_.Remove(pages);
      return;
    }
    // Not registered, although it is in a freeze: it counts as written for that alone.
    if (absl::IsNotFound(Clear(pages))) suspect_.Remove(pages);
  });
  return suspect_;
}

// Where a mapping is not ours there are none of ours.
void UffdRegistry::ClearMarkers(const PageSet& markers) {
  for (PageRange run : markers.runs()) (void)WriteProtect(uffd_.get(), run, /*protect=*/false);
}

}  // namespace incr
