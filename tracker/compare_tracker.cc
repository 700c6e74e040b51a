// No kernel help beyond /proc/<pid>/pagemap, which every kernel has: all content is read and
// hashed at the freeze. Slow, and simple enough to be the oracle for the others.
#include "tracker/compare_tracker.h"

#include <utility>

#include "base/status.h"
#include "process/pagemap_scan.h"
#include "process/remote_memory.h"
#include "tracker/content_comparer.h"
#include "tracker/content_view.h"
#include "tracker/epoch_ledger.h"
#include "tracker/pagemap_content.h"
#include "tracker/shared_content.h"
#include "tracker/write_tracker.h"

namespace incr {
namespace {

class CompareTracker final : public WriteTracker {
 public:
  CompareTracker(const ProcessHandle* process, RemoteMemory memory)
      : process_(process), memory_(std::move(memory)) {}

  absl::string_view name() const override { return "compare"; }

  absl::Status Arm(const MemoryMap& map, const PageSet& known) override {
    ledger_.Reset(known);
    comparer_.Reset();
    if (known.empty()) return absl::OkStatus();
    INCR_RETURN_IF_ERROR(Compare(map));
    comparer_.Keep();
    return absl::OkStatus();
  }

  // Only a stopped target can be compared (content_comparer.h says why).
  absl::StatusOr<TakenPages> TakeRunning(const MemoryMap&) override {
    TakenPages taken;
    taken.written = ledger_.TakeRunning(PageSet());
    return taken;
  }

  absl::StatusOr<TakenPages> TakeFrozen(const MemoryMap& map) override {
    INCR_RETURN_IF_ERROR(Compare(map));
    return ledger_.TakeFrozen(comparer_.changed(), comparer_.content(), comparer_.content());
  }

  void Exclude(PageSet pages) override { ledger_.Exclude(std::move(pages)); }
  void PutBack(const PageSet& pages) override { ledger_.PutBack(pages); }
  void set_heartbeat(std::function<void()> heartbeat) override {
    comparer_.set_heartbeat(std::move(heartbeat));
  }
  void EpochDurable() override {
    ledger_.EpochDurable();
    comparer_.Keep();
  }
  void EpochFailed() override { ledger_.EpochFailed(); }

 private:
  absl::Status Compare(const MemoryMap& map);
  absl::Status ComparePrivate(const PagemapScanner& scanner, PageRange range);

  const ProcessHandle* const process_;
  const RemoteMemory memory_;
  EpochLedger ledger_;
  ContentComparer comparer_;
};

absl::Status CompareTracker::Compare(const MemoryMap& map) {
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  comparer_.Begin();
  for (const MemoryMapping& mapping : map) {
    if (IsPrivate(mapping)) {
      INCR_RETURN_IF_ERROR(ComparePrivate(scanner, mapping.pages()));
    } else if (ClassifyMapping(mapping) == MappingClass::kSharedWritable) {
      INCR_RETURN_IF_ERROR(
          VisitSharedContent(*process_, memory_, mapping, [&](uint64_t page, const uint8_t* bytes) {
            comparer_.Visit(page, bytes);
          }));
    }
  }
  return scanner.CheckAlive();
}

absl::Status CompareTracker::ComparePrivate(const PagemapScanner& scanner, PageRange range) {
  PageSet own;
  INCR_RETURN_IF_ERROR(VisitPrivateContent(
      scanner, range, [&](uint64_t page, uint64_t) { own.Add({page, 1}); }));
  for (PageRange run : own.runs()) {
    INCR_RETURN_IF_ERROR(VisitProcessPages(memory_, run, [&](uint64_t page, const uint8_t* bytes) {
      comparer_.Visit(page, bytes);
    }));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<WriteTracker>> NewCompareTracker(const ProcessHandle* process) {
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(*process, /*writable=*/false));
  return std::make_unique<CompareTracker>(process, std::move(memory));
}

}  // namespace incr
