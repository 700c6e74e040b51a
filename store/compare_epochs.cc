#include "store/compare_epochs.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

// The epochs from `after` down to the one above `before`, if only deltas lie between them.
absl::StatusOr<std::optional<std::vector<EpochEnvelope>>> PathBetween(const Catalog& catalog,
                                                                      absl::string_view job,
                                                                      uint64_t before,
                                                                      EpochEnvelope newest) {
  std::vector<EpochEnvelope> path;
  path.push_back(std::move(newest));
  while (path.back().depth > 0 && path.back().record.parent() >= before) {
    if (path.back().record.parent() == before) return std::make_optional(std::move(path));
    const uint32_t depth = path.back().depth;
    INCR_ASSIGN_OR_RETURN(EpochEnvelope parent, catalog.GetEpoch(job, path.back().record.parent()));
    if (parent.depth + 1 != depth) {
      return absl::DataLossError(absl::StrCat("epoch ", parent.record.epoch(), " of job ", job,
                                              ": out of place in the chain"));
    }
    path.push_back(std::move(parent));
  }
  return std::optional<std::vector<EpochEnvelope>>();
}

// That the delta is as the epoch itself wrote it, not several that gc joined: between those lies a number.
bool IsOwnDelta(const EpochEnvelope& envelope, const PageDelta& delta) {
  if (envelope.record.parent() + 1 != envelope.record.epoch()) return false;
  uint64_t gone = 0;
  for (const SpaceRange& run : delta.gone) gone += run.range.count;
  return gone == envelope.record.stats().pages_gone() &&
         delta.written.size() <= envelope.record.stats().pages_written();
}

absl::StatusOr<PageChanges> CompareAlongPath(const Catalog& catalog, absl::string_view job,
                                             const EpochEnvelope& before,
                                             const std::vector<EpochEnvelope>& path) {
  PageDelta delta;
  for (const EpochEnvelope& envelope : path) {
    INCR_ASSIGN_OR_RETURN(PageDelta older,
                          catalog.ReadManifest(job, envelope.record.epoch(), envelope));
    delta = &envelope == &path[0] ? std::move(older) : Combine(older, delta);
    if (delta.written.size() > MaxTablePages()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "epoch ", path[0].record.epoch(), " of job ", job, ": table too large"));
    }
  }
  // No more pages can be gone than there were: what is listed below stays bounded.
  if (path.size() == 1 && IsOwnDelta(path[0], delta) &&
      before.record.table_pages() <= MaxTablePages()) {
    std::optional<PageChanges> changes =
        CompareByDelta(delta, before.record.table_pages(), path[0].record.table_pages());
    if (changes.has_value()) return *std::move(changes);
  }
  INCR_ASSIGN_OR_RETURN(const PageTable table, catalog.LoadPageTable(job, before.record.epoch()));
  return CompareWithDelta(table, delta);
}

}  // namespace

absl::StatusOr<PageChanges> CompareEpochs(const Catalog& catalog, absl::string_view job,
                                          uint64_t before, uint64_t after) {
  if (before > after) {
    INCR_ASSIGN_OR_RETURN(PageChanges changes, CompareEpochs(catalog, job, after, before));
    return Reversed(std::move(changes));
  }
  INCR_ASSIGN_OR_RETURN(const EpochEnvelope oldest, catalog.GetEpoch(job, before));
  INCR_ASSIGN_OR_RETURN(EpochEnvelope newest, catalog.GetEpoch(job, after));
  if (before == after) return PageChanges();
  INCR_ASSIGN_OR_RETURN(const auto path, PathBetween(catalog, job, before, std::move(newest)));
  if (path.has_value()) return CompareAlongPath(catalog, job, oldest, *path);
  INCR_ASSIGN_OR_RETURN(const PageTable old_table, catalog.LoadPageTable(job, before));
  INCR_ASSIGN_OR_RETURN(const PageTable new_table, catalog.LoadPageTable(job, after));
  return CompareTables(old_table, new_table);
}

}  // namespace incr
