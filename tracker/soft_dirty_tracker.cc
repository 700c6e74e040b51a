// The kernel sets a bit in the page table entry of each page that is written; /proc/<pid>/pagemap shows the
// bits, /proc/<pid>/clear_refs clears them all.
//
// Reading and clearing are two steps, so both happen in freezes only. What a pre-copy round hands out is
// what an earlier freeze found and owes: a failed epoch's pages, or those of ArmNew, for which the session
// stops the target for a moment when much was written (CountUnarmed). Then the bits tell what was written
// since.
//
// What the bits do not tell, and what is done about it at every freeze:
//   - another page in a clean one's place: frames and swap slots are compared too (entry_comparer.h);
//   - bits that somebody else has cleared: canary.h; the Take is an error, the next one takes everything;
//   - shared memory is written by others: its content is compared;
//   - whole huge pages of files, hugetlbfs among them: taken each time.
#include "tracker/soft_dirty_tracker.h"

#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "process/pagemap_scan.h"
#include "process/remote_memory.h"
#include "process/soft_dirty.h"
#include "tracker/canary.h"
#include "tracker/content_comparer.h"
#include "tracker/content_view.h"
#include "tracker/entry_comparer.h"
#include "tracker/epoch_ledger.h"
#include "tracker/pagemap_content.h"
#include "tracker/shared_content.h"

namespace incr {
namespace {

constexpr char kClearedByOthers[] =
    "another program has cleared the soft-dirty bits of this process (/proc/<pid>/clear_refs): what it "
    "has written is not known";
constexpr char kUnguarded[] =
    "no page could be marked by which to see whether others clear the soft-dirty bits: all memory was "
    "saved again";

class SoftDirtyTracker final : public WriteTracker {
 public:
  SoftDirtyTracker(const ProcessHandle* process, RemoteMemory memory)
      : process_(process), memory_(std::move(memory)) {}

  absl::string_view name() const override { return "soft-dirty"; }
  absl::Status Arm(const MemoryMap& map, const PageSet& known) override;
  absl::StatusOr<uint64_t> CountUnarmed(const MemoryMap& map) override;
  absl::Status ArmNew(const MemoryMap& map) override;
  absl::StatusOr<TakenPages> TakeRunning(const MemoryMap& map) override;
  absl::StatusOr<TakenPages> TakeFrozen(const MemoryMap& map) override;
  void Exclude(PageSet pages) override { ledger_.Exclude(std::move(pages)); }
  void PutBack(const PageSet& pages) override { ledger_.PutBack(pages); }
  void set_heartbeat(std::function<void()> heartbeat) override {
    shared_.set_heartbeat(std::move(heartbeat));
  }
  void EpochDurable() override;
  void EpochFailed() override { ledger_.EpochFailed(); }
  std::vector<std::string> warnings() const override;

 private:
  // entries_ := what was written since the bits were cleared. Changes nothing.
  absl::StatusOr<CanaryVerdict> Look(const MemoryMap& map);
  absl::Status LookAt(const MemoryMapping& mapping, const PagemapScanner& scanner);
  // Clears the bits; the target has been stopped since before Look().
  absl::Status Clear();
  // Nothing is known of the bits: the next Look() finds everything written.
  void Forget();
  absl::Status CompareShared(const MemoryMap& map);

  const ProcessHandle* const process_;
  const RemoteMemory memory_;
  EntryComparer entries_;
  Canaries canaries_;
  EpochLedger ledger_;
  ContentComparer shared_;
  std::vector<Canaries::Candidate> candidates_;  // of the last Look()
  std::vector<std::string> untellable_;          // of the last Look()
  bool cleared_ = false;                         // by us, and canaries_ were planted if that could be
  std::string distrusted_;                       // why everything counted as written in this epoch
  bool epoch_over_ = false;
};

absl::StatusOr<CanaryVerdict> SoftDirtyTracker::Look(const MemoryMap& map) {
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  if (std::exchange(epoch_over_, false)) distrusted_.clear();
  entries_.Begin();
  candidates_.clear();
  untellable_.clear();
  for (const MemoryMapping& mapping : map) {
    if (IsPrivate(mapping)) INCR_RETURN_IF_ERROR(LookAt(mapping, scanner));
  }
  INCR_RETURN_IF_ERROR(scanner.CheckAlive());
  // After the entries: a clearing just before would have been read as "clean".
  INCR_ASSIGN_OR_RETURN(const CanaryVerdict verdict, canaries_.Check(scanner));
  if (verdict != CanaryVerdict::kAlive) entries_.DistrustPass();
  if (verdict == CanaryVerdict::kDead) distrusted_ = kClearedByOthers;
  if (verdict == CanaryVerdict::kUnknown && cleared_) distrusted_ = kUnguarded;
  return verdict;
}

absl::Status SoftDirtyTracker::LookAt(const MemoryMapping& mapping, const PagemapScanner& scanner) {
  const EntryComparer::Backing backing =
      ClassifyMapping(mapping) == MappingClass::kPrivateFile ? EntryComparer::Backing::kFile
                                                             : EntryComparer::Backing::kAnonymous;
  const uint64_t untellable = entries_.untellable().page_count();
  uint64_t candidate = 0;
  INCR_RETURN_IF_ERROR(
      VisitPrivateContent(scanner, mapping.pages(), [&](uint64_t page, uint64_t entry) {
        entries_.Visit(page, entry, backing);
        if (FitForCanary(entry)) candidate = page;
      }));
  if (entries_.untellable().page_count() > untellable) {
    untellable_.push_back(absl::StrFormat(
        "huge pages at %x-%x %s cannot be tracked, they are saved whole each time", mapping.start,
        mapping.end, mapping.name));
  } else if (candidate != 0) {
    candidates_.push_back({candidate, CanaryRank(mapping)});
  }
  return absl::OkStatus();
}

absl::Status SoftDirtyTracker::Clear() {
  Forget();  // Until it has succeeded nobody knows.
  INCR_RETURN_IF_ERROR(ClearSoftDirty(*process_));
  entries_.Keep();
  cleared_ = true;
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  canaries_.Plant(candidates_, scanner, memory_);
  return absl::OkStatus();
}

void SoftDirtyTracker::Forget() {
  entries_.Forget();
  canaries_ = Canaries();
  cleared_ = false;
}

absl::Status SoftDirtyTracker::CompareShared(const MemoryMap& map) {
  shared_.Begin();
  return VisitAllSharedContent(
      *process_, memory_, map,
      [this](uint64_t page, const uint8_t* bytes) { shared_.Visit(page, bytes); });
}

absl::Status SoftDirtyTracker::Arm(const MemoryMap& map, const PageSet& known) {
  ledger_.Reset(known);
  shared_.Reset();
  Forget();
  if (known.empty()) return absl::OkStatus();  // It runs: the first freeze clears.
  // All that exists is taken for clean: it equals the table. What the table lacks the ledger finds at
  // the next freeze.
  INCR_RETURN_IF_ERROR(Look(map).status());
  INCR_RETURN_IF_ERROR(Clear());
  INCR_RETURN_IF_ERROR(CompareShared(map));
  shared_.Keep();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SoftDirtyTracker::CountUnarmed(const MemoryMap& map) {
  INCR_RETURN_IF_ERROR(Look(map).status());
  PageSet written = entries_.written();
  written.Remove(entries_.untellable());
  written.Remove(canaries_.pages());
  return written.page_count();
}

absl::Status SoftDirtyTracker::ArmNew(const MemoryMap& map) {
  INCR_RETURN_IF_ERROR(Look(map).status());
  ledger_.PutBack(entries_.written());
  return Clear();
}

absl::StatusOr<TakenPages> SoftDirtyTracker::TakeRunning(const MemoryMap&) {
  TakenPages taken;
  taken.written = ledger_.TakeRunning(PageSet());
  taken.pages_scanned = taken.written.page_count();
  return taken;
}

absl::StatusOr<TakenPages> SoftDirtyTracker::TakeFrozen(const MemoryMap& map) {
  INCR_ASSIGN_OR_RETURN(const CanaryVerdict verdict, Look(map));
  if (verdict == CanaryVerdict::kDead) {
    // Better a new beginning, copied while the target runs, than all of it in this freeze.
    Forget();
    return absl::AbortedError(kClearedByOthers);
  }
  PageSet written = entries_.written(), content = entries_.content();
  absl::Status status = Clear();
  if (status.ok()) status = FaultPoint("tracker.soft_dirty_taken");
  if (status.ok()) status = CompareShared(map);
  if (!status.ok()) {
    ledger_.PutBack(written);
    return status;
  }
  written.Add(shared_.changed());
  content.Add(shared_.content());
  return ledger_.TakeFrozen(std::move(written), std::move(content), shared_.content());
}

void SoftDirtyTracker::EpochDurable() {
  ledger_.EpochDurable();
  shared_.Keep();
  epoch_over_ = true;
}

std::vector<std::string> SoftDirtyTracker::warnings() const {
  std::vector<std::string> all = untellable_;
  if (!distrusted_.empty()) all.push_back(distrusted_);
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WriteTracker>> NewSoftDirtyTracker(const ProcessHandle* process) {
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(*process, /*writable=*/true));
  return std::make_unique<SoftDirtyTracker>(process, std::move(memory));
}

}  // namespace incr
