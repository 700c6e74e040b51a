#include "tracker/write_tracker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "process/features.h"
#include "process/kernel_abi.h"
#include "process/tracking_probes.h"
#include "tracker/compare_tracker.h"
#include "tracker/soft_dirty_tracker.h"
#include "tracker/uffd_wp_async_tracker.h"
#include "tracker/uffd_wp_tracker.h"

namespace incr {

UffdTrackerTraits ProbeUffdTrackerTraits() {
  UffdTrackerTraits traits;
  if (ProbePagemapGuard().works) traits.guard_category = PAGE_IS_GUARD;
  traits.markers_visible = ProbePagemapFrames().works;
  traits.written_reports_empty = ProbeWrittenReportsEmpty().works;
  return traits;
}

Feature ProbeSoftDirtyTracker() {
  Feature feature = ProbeSoftDirty();
  const Feature frames = ProbePagemapFrames();
  if (!feature.works || frames.works) return feature;
  feature.works = false;
  feature.detail = absl::StrCat("page frame numbers: ", frames.detail);
  return feature;
}

namespace {

using TrackerOr = absl::StatusOr<std::unique_ptr<WriteTracker>>;

struct BackEndInfo {
  const char* name;
  uint64_t uffd_features;
  Feature (*probe)();
  const char* how;  // for people
  TrackerOr (*make)(const ProcessHandle* process, ScopedFd uffd);
};

// Best first.
const BackEndInfo* BackEnds(size_t* count) {
  static const BackEndInfo kBackEnds[] = {
      {"uffd-wp-async", kUffdWpAsyncFeatures, ProbeUffdWpAsync,
       "the kernel notes the first write to each page (userfaultfd WP_ASYNC, PAGEMAP_SCAN)",
       [](const ProcessHandle* process, ScopedFd uffd) -> TrackerOr {
         return NewUffdWpAsyncTracker(process, std::move(uffd), ProbeUffdTrackerTraits());
       }},
      {"soft-dirty", 0, ProbeSoftDirtyTracker,
       "the kernel marks the pages written since clear_refs (soft-dirty bits of pagemap)",
       [](const ProcessHandle* process, ScopedFd) { return NewSoftDirtyTracker(process); }},
      {"uffd-wp", kUffdWpFeatures, ProbeUffdWp,
       "a thread of ours is told of the first write to each page (userfaultfd write-protect faults)",
       [](const ProcessHandle* process, ScopedFd uffd) -> TrackerOr {
         return NewUffdWpTracker(process, std::move(uffd));
       }},
      {"compare", 0, [] { return Feature{"compare", true, "", ""}; },
       "every page is read and hashed at each checkpoint",
       [](const ProcessHandle* process, ScopedFd) { return NewCompareTracker(process); }},
  };
  *count = std::size(kBackEnds);
  return kBackEnds;
}

const BackEndInfo* Find(absl::string_view name) {
  size_t count = 0;
  const BackEndInfo* all = BackEnds(&count);
  const BackEndInfo* found =
      std::find_if(all, all + count, [&](const BackEndInfo& info) { return info.name == name; });
  return found == all + count ? nullptr : found;
}

absl::Status Unknown(absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat("no tracker is called \"", name, "\": there are ",
                                                 absl::StrJoin(TrackerNames(), ", ")));
}

}  // namespace

std::vector<std::string> TrackerNames() {
  size_t count = 0;
  const BackEndInfo* all = BackEnds(&count);
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back(all[i].name);
  return names;
}

uint64_t UffdFeaturesOfTracker(absl::string_view name) {
  const BackEndInfo* info = Find(name);
  return info == nullptr ? 0 : info->uffd_features;
}

absl::StatusOr<std::unique_ptr<WriteTracker>> NewWriteTracker(absl::string_view name,
                                                              const ProcessHandle* process,
                                                              ScopedFd uffd) {
  const BackEndInfo* info = Find(name);
  if (info == nullptr) return Unknown(name);
  if (info->uffd_features != 0 && !uffd.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": no userfaultfd given"));
  }
  if (info->uffd_features != 0) INCR_RETURN_IF_ERROR(FaultPoint("tracker.attach"));
  return info->make(process, std::move(uffd));
}

absl::StatusOr<std::string> ChooseTracker(absl::string_view requested, std::string* why,
                                          const std::vector<std::string>& avoid) {
  if (!requested.empty()) {
    const BackEndInfo* info = Find(requested);
    if (info == nullptr) return Unknown(requested);
    const Feature feature = info->probe();
    if (!feature.works) {
      return absl::FailedPreconditionError(
          absl::StrCat(requested, " cannot work here: ", feature.detail));
    }
    *why = absl::StrCat("as asked for: ", info->how);
    return std::string(requested);
  }
  size_t count = 0;
  const BackEndInfo* all = BackEnds(&count);
  std::string rejected;
  for (const BackEndInfo* info = all; info != all + count; ++info) {
    if (std::find(avoid.begin(), avoid.end(), info->name) != avoid.end()) continue;
    const Feature feature = info->probe();
    if (feature.works) {
      *why = absl::StrCat(info->how, rejected);
      return std::string(info->name);
    }
    absl::StrAppend(&rejected, rejected.empty() ? ", because " : "; ", info->name,
                    " cannot work here: ", feature.detail);
  }
  return absl::FailedPreconditionError(absl::StrCat("no tracker is left", rejected));
}

}  // namespace incr
