// features.h — what this kernel really does, found by use and not by version or by a
// call's success (clear_refs succeeds where soft-dirty is compiled out).
#ifndef INCR_CKPT_PROCESS_FEATURES_H_
#define INCR_CKPT_PROCESS_FEATURES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace incr {

struct Feature {
  std::string name;    // "uffd_wp_async", "pagemap_scan", "soft_dirty", "clone3_set_tid", "io_uring", ...
  bool works = false;
  std::string detail;  // why not, or what was seen
  std::string used_for;
};

// Probes in this process and in short-lived children of its own. About 20 ms.
std::vector<Feature> ProbeFeatures();

bool FeatureWorks(const std::vector<Feature>& features, absl::string_view name);

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_FEATURES_H_
