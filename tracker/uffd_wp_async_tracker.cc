// The kernel write-protects pages and notes the first write to each by dropping the protection
// (userfaultfd WP_ASYNC); PAGEMAP_SCAN reads and re-arms in one step.
//
// What the kernel forgets in silence, and what is done about it at every Take:
//   - a mapping made, moved or grown since then is not registered: at the freeze all its pages
//     count as written, whatever their bits say, and its old bits are cleared (uffd_registry.h);
//   - dropped pages show no write: `content` is what exists at the freeze, the rest is gone;
//   - a dropped page of a private file mapping leaves a uffd-wp marker that looks like a clean
//     swapped page: its pagemap entry tells;
//   - such a page that is written again inherits the protection from that marker: until the write itself,
//     one fault later, it is a new page that looks clean. A stop between the two is likely (the fault ends
//     in the signal path), so what a process has of its own in private file mappings is always taken;
//   - shared memory is written by others: its content is compared;
//   - what another userfaultfd has is never armed by us, and taken whole (uffd_registry.h).
#include "tracker/uffd_wp_async_tracker.h"

#include <optional>
#include <utility>

#include "base/fault_point.h"
#include "base/status.h"
#include "process/kernel_abi.h"
#include "process/remote_memory.h"
#include "tracker/content_comparer.h"
#include "tracker/epoch_ledger.h"
#include "tracker/private_scan.h"
#include "tracker/shared_content.h"
#include "tracker/uffd_registry.h"
#include "tracker/write_tracker.h"

namespace incr {

// WP_UNPOPULATED: PAGEMAP_SCAN refuses to protect anonymous memory without it.
const uint64_t kUffdWpAsyncFeatures = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;

namespace {

constexpr uint64_t kMostCachedPages = 1024 * 1024;  // 8 MiB of page tables

struct Found {
  PageSet written;
  PageSet content;
};

class UffdWpAsyncTracker final : public WriteTracker {
 public:
  UffdWpAsyncTracker(const ProcessHandle* process, ScopedFd uffd, RemoteMemory memory,
                     UffdTrackerTraits traits)
      : process_(process),
        memory_(std::move(memory)),
        traits_(traits),
        registry_(std::move(uffd)) {}

  absl::string_view name() const override { return "uffd-wp-async"; }
  absl::Status Arm(const MemoryMap& map, const PageSet& known) override;
  absl::StatusOr<uint64_t> CountUnarmed(const MemoryMap& map) override;
  absl::Status ArmNew(const MemoryMap& map) override;
  void LookAhead(const MemoryMap& map) override;
  absl::StatusOr<TakenPages> TakeRunning(const MemoryMap& map) override;
  absl::StatusOr<TakenPages> TakeFrozen(const MemoryMap& map) override;
  void Exclude(PageSet pages) override { ledger_.Exclude(std::move(pages)); }
  void PutBack(const PageSet& pages) override { ledger_.PutBack(pages); }
  void set_heartbeat(std::function<void()> heartbeat) override {
    shared_.set_heartbeat(std::move(heartbeat));
  }
  void EpochDurable() override;
  void EpochFailed() override { ledger_.EpochFailed(); }
  std::vector<std::string> warnings() const override { return registry_.warnings(); }

 private:
  // All private content, registered and armed, in a freeze.
  absl::Status TakePrivate(const MemoryMap& map, Found* found);
  absl::StatusOr<PagemapScanner> TakeScanner();
  absl::Status CompareShared(const MemoryMap& map);

  const ProcessHandle* const process_;
  const RemoteMemory memory_;
  const UffdTrackerTraits traits_;
  UffdRegistry registry_;
  EpochLedger ledger_;
  ContentComparer shared_;
  std::optional<PagemapScanner> scanner_;  // opened by LookAhead
  ParallelFor threads_{ParallelFor::HelpersForThisMachine()};
};

// Of memory that an exec has replaced since LookAhead every scan says that it is gone.
absl::StatusOr<PagemapScanner> UffdWpAsyncTracker::TakeScanner() {
  if (!scanner_) return PagemapScanner::Open(*process_);
  PagemapScanner scanner = *std::move(scanner_);
  scanner_.reset();
  return scanner;
}

absl::Status UffdWpAsyncTracker::TakePrivate(const MemoryMap& map, Found* found) {
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, TakeScanner());
  PrivateScan scan(std::move(scanner), &map, traits_);
  INCR_ASSIGN_OR_RETURN(PageSet unregistered, scan.FindUnregistered());
  scan.Divide(&threads_, ledger_.populated());
  registry_.RegisterFrozen(map, unregistered);
  const PageSet& suspects = registry_.ClearSuspects(
      map, [&](PageRange range) { return scan.FindProtected(range); });
  const PageSet& foreign = registry_.foreign();
  if (!foreign.empty()) {
    INCR_ASSIGN_OR_RETURN(scan, PrivateScan::Open(*process_, map, traits_, foreign));
    scan.Divide(&threads_, ledger_.populated());
    INCR_RETURN_IF_ERROR(scan.FindUnregistered().status());
    INCR_ASSIGN_OR_RETURN(const PageSet theirs, scan.FindContent(foreign));
    unregistered.Add(theirs);
  }
  PageSet markers;
  const absl::Status status =
      scan.TakeWrittenAndContent(&found->written, &found->content, &markers);
  registry_.ClearMarkers(markers);
  found->written.Add(unregistered);
  found->content.Add(unregistered);
  if (!suspects.empty()) found->written.Add(found->content.Intersect(suspects));
  found->written.Add(found->content.Intersect(PrivateFilePages(map)));
  // The gaps between mappings were scanned as well, and the tracer's scratch memory may be in one.
  const PageSet mapped = MappedPages(map);
  found->written = found->written.Intersect(mapped);
  found->content = found->content.Intersect(mapped);
  // Destructive: what was read before the error must come again.
  if (!status.ok()) ledger_.PutBack(found->written);
  return status;
}

absl::Status UffdWpAsyncTracker::CompareShared(const MemoryMap& map) {
  shared_.Begin();
  return VisitAllSharedContent(
      *process_, memory_, map,
      [this](uint64_t page, const uint8_t* bytes) { shared_.Visit(page, bytes); });
}

absl::Status UffdWpAsyncTracker::Arm(const MemoryMap& map, const PageSet& known) {
  ledger_.Reset(known);
  shared_.Reset();
  // It may run: registering waits for a freeze, ArmNew's or the first epoch's (uffd_registry.h).
  if (known.empty()) return absl::OkStatus();
  // All that exists is armed and not reported: it equals the table. What the table lacks is
  // found by the ledger at the next freeze.
  Found found;
  INCR_RETURN_IF_ERROR(TakePrivate(map, &found));
  INCR_RETURN_IF_ERROR(CompareShared(map));
  shared_.Keep();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> UffdWpAsyncTracker::CountUnarmed(const MemoryMap& map) {
  INCR_ASSIGN_OR_RETURN(PrivateScan scan, PrivateScan::Open(*process_, map, traits_));
  INCR_ASSIGN_OR_RETURN(PageSet unregistered, scan.FindUnregistered());
  return unregistered.page_count();
}

absl::Status UffdWpAsyncTracker::ArmNew(const MemoryMap& map) {
  INCR_ASSIGN_OR_RETURN(PrivateScan scan, PrivateScan::Open(*process_, map, traits_));
  INCR_ASSIGN_OR_RETURN(PageSet unregistered, scan.FindUnregisteredMappings());
  registry_.RegisterFrozen(map, unregistered);
  // What cannot be cleared stays suspect: the next TakeFrozen sees to it.
  registry_.ClearSuspects(
      map, [&](PageRange range) { return scan.FindProtected(range); });
  return absl::OkStatus();
}

// On this thread alone: the others have the target's CPUs.
void UffdWpAsyncTracker::LookAhead(const MemoryMap& map) {
  absl::StatusOr<PagemapScanner> opened = PagemapScanner::Open(*process_);
  if (!opened.ok()) return;
  if (ledger_.populated().page_count() <= kMostCachedPages) {
    const absl::StatusOr<PrivateScan> scan =
        PrivateScan::Open(*process_, map, traits_, registry_.foreign());
    if (scan.ok()) scan->WarmUp();
  }
  scanner_ = *std::move(opened);
}

absl::StatusOr<TakenPages> UffdWpAsyncTracker::TakeRunning(const MemoryMap& map) {
  if (!registry_.looked()) return TakenPages();  // What would be armed is somebody else's.
  INCR_ASSIGN_OR_RETURN(PrivateScan scan,
                        PrivateScan::Open(*process_, map, traits_, registry_.foreign()));
  scan.Divide(&threads_, ledger_.populated());
  PageSet written;
  absl::Status status = scan.TakeWritten(&written);
  if (status.ok()) status = FaultPoint("tracker.take_running");
  if (!status.ok()) {
    ledger_.PutBack(written);
    return status;
  }
  TakenPages taken;
  taken.pages_scanned = written.page_count();
  // A page outside `map` was mapped a moment ago, by a growing stack for one.
  taken.written = ledger_.TakeRunning(std::move(written));
  return taken;
}

absl::StatusOr<TakenPages> UffdWpAsyncTracker::TakeFrozen(const MemoryMap& map) {
  Found found;
  INCR_RETURN_IF_ERROR(TakePrivate(map, &found));
  absl::Status status = FaultPoint("tracker.take");
  if (status.ok()) status = CompareShared(map);
  if (!status.ok()) {
    ledger_.PutBack(found.written);
    return status;
  }
  found.written.Add(shared_.changed());
  found.content.Add(shared_.content());
  return ledger_.TakeFrozen(std::move(found.written), std::move(found.content),
                            shared_.content());
}

void UffdWpAsyncTracker::EpochDurable() {
  ledger_.EpochDurable();
  shared_.Keep();
}

}  // namespace

absl::StatusOr<std::unique_ptr<WriteTracker>> NewUffdWpAsyncTracker(
    const ProcessHandle* process, ScopedFd uffd, const UffdTrackerTraits& traits) {
  if (!uffd.ok()) return absl::InvalidArgumentError("uffd-wp-async: no userfaultfd given");
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(*process, /*writable=*/false));
  return std::make_unique<UffdWpAsyncTracker>(process, std::move(uffd), std::move(memory), traits);
}

}  // namespace incr
