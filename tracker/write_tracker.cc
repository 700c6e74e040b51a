#include "tracker/write_tracker.h"

#include "absl/strings/str_cat.h"
#include "process/features.h"
#include "process/kernel_abi.h"
#include "process/tracking_probes.h"
#include "tracker/uffd_wp_async_tracker.h"

namespace incr {
namespace {

constexpr char kUffdWpAsync[] = "uffd-wp-async";
constexpr char kCompare[] = "compare";

}  // namespace

UffdTrackerTraits ProbeUffdTrackerTraits() {
  UffdTrackerTraits traits;
  if (ProbePagemapGuard().works) traits.guard_category = PAGE_IS_GUARD;
  traits.markers_visible = ProbePagemapFrames().works;
  traits.written_reports_empty = ProbeWrittenReportsEmpty().works;
  return traits;
}

absl::StatusOr<std::unique_ptr<WriteTracker>> NewUffdWpAsyncTracker(const ProcessHandle* process,
                                                                    ScopedFd uffd) {
  return NewUffdWpAsyncTracker(process, std::move(uffd), ProbeUffdTrackerTraits());
}

absl::StatusOr<std::string> ChooseTracker(absl::string_view requested, std::string* why) {
  if (requested == kCompare) {
    *why = "as asked for";
    return std::string(kCompare);
  }
  if (!requested.empty() && requested != kUffdWpAsync) {
    return absl::InvalidArgumentError(absl::StrCat("no tracker is called \"", requested,
                                                   "\": there are ", kUffdWpAsync, " and ",
                                                   kCompare));
  }
  const Feature wp_async = ProbeUffdWpAsync();
  if (wp_async.works) {
    *why = "the kernel notes the first write to each page (userfaultfd WP_ASYNC, PAGEMAP_SCAN)";
    return std::string(kUffdWpAsync);
  }
  if (!requested.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(requested, " cannot work here: ", wp_async.detail));
  }
  *why = absl::StrCat("every page is read and hashed at each checkpoint, because uffd-wp-async "
                      "cannot work here: ", wp_async.detail);
  return std::string(kCompare);
}

}  // namespace incr
