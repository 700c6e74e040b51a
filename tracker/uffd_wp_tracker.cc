// Pages are write-protected through a userfaultfd; the first write to each is a message to a thread of
// ours, which drops the protection (uffd_fault_server.h). What is true at the freeze is in the pagemap:
// content without the uffd-wp bit was written, whatever the list of messages says. The list saves the
// pre-copy rounds a scan.
//
// A page is armed only in a Take that hands it out, before it is copied. So nothing is armed that was not
// copied since, and whoever fails to arm, or comes late with an answer, leaves a page that shows as written.
//
// What the kernel does not do for us here, and what is done about it at every freeze:
//   - which mappings are registered it does not say (PAGE_IS_WPALLOWED is for WP_ASYNC): we ask about a
//     page with content (MappingState);
//   - a mapping found unregistered may have bits that lie: they are cleared (docs/decisions/0003);
//   - pages that are new in a hole cause no fault: they have no bit, and the freeze finds them;
//   - private mappings of files cannot be registered: the pages of their own are compared, and so is
//     shared memory.
#include "tracker/uffd_wp_tracker.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "process/kernel_abi.h"
#include "process/pagemap_scan.h"
#include "process/remote_memory.h"
#include "process/userfaultfd.h"
#include "tracker/content_comparer.h"
#include "tracker/content_view.h"
#include "tracker/epoch_ledger.h"
#include "tracker/pagemap_content.h"
#include "tracker/shared_content.h"
#include "tracker/uffd_fault_server.h"

namespace incr {

const uint64_t kUffdWpFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP;

namespace {

constexpr uint64_t kHugePages = 512;    // of 4 KiB in one of 2 MiB
constexpr uint64_t kBridgedPages = 32;  // Arming them again costs less than another system call.

struct Content {
  PageSet all;
  PageSet written;  // of it: without the uffd-wp bit
};

absl::Status ReadContent(const PagemapScanner& scanner, PageRange range, Content* content) {
  return VisitPrivateContent(scanner, range, [&](uint64_t page, uint64_t entry) {
    content->all.Add({page, 1});
    if ((entry & kPagemapUffdWp) == 0) content->written.Add({page, 1});
  });
}

// Private anonymous memory. Of files those on tmpfs could, from 5.19 on; but then a dropped page leaves a
// marker that 6.1 shows as a swapped one, of which nobody knows the content.
bool MayBeRegistered(const MemoryMapping& mapping) {
  return IsPrivate(mapping) && !mapping.is_file();
}

PageSet Within(const PageSet& pages, const MemoryMapping& mapping) {
  PageSet all;
  all.Add(mapping.pages());
  return pages.Intersect(all);
}

class UffdWpTracker final : public WriteTracker {
 public:
  UffdWpTracker(const ProcessHandle* process, std::unique_ptr<UffdFaultServer> server,
                RemoteMemory memory)
      : process_(process), memory_(std::move(memory)), server_(std::move(server)) {}

  absl::string_view name() const override { return "uffd-wp"; }
  absl::Status Arm(const MemoryMap& map, const PageSet& known) override;
  absl::StatusOr<uint64_t> CountUnarmed(const MemoryMap& map) override;
  absl::Status ArmNew(const MemoryMap& map) override;
  absl::StatusOr<TakenPages> TakeRunning(const MemoryMap& map) override;
  absl::StatusOr<TakenPages> TakeFrozen(const MemoryMap& map) override;
  void Exclude(PageSet pages) override { ledger_.Exclude(std::move(pages)); }
  void PutBack(const PageSet& pages) override { ledger_.PutBack(pages); }
  void set_heartbeat(std::function<void()> heartbeat) override {
    comparer_.set_heartbeat(std::move(heartbeat));
  }
  void EpochDurable() override;
  void EpochFailed() override { ledger_.EpochFailed(); }
  std::vector<std::string> warnings() const override { return warnings_; }

 private:
  enum class MappingState {
    kTracked,  // since the last freeze at least: its bits are true
    kNew,      // registered now, with no bits
    kCompare,  // of a kind that is not registered
    kWhole,    // somebody else's, or refused
  };
  struct Found {
    PageSet listed;   // Owed, like the next, if we do not come to the end.
    PageSet written;
    PageSet content;
  };

  absl::Status ScanRunning(const MemoryMap& map, PageSet* written);
  void ArmRunning(const MemoryMap& map, const PageSet& pages);
  void Warn(const MemoryMapping& mapping, const absl::Status& why);

  MappingState Claim(const MemoryMapping& mapping, const PageSet& content);
  absl::Status ArmFrozen(const Content& content);
  absl::Status TakePrivate(const PagemapScanner& scanner, const MemoryMapping& mapping, Found* found);
  absl::Status Compare(const PageSet& pages);
  absl::Status TakeAll(const MemoryMap& map, Found* found);

  const ProcessHandle* const process_;
  const RemoteMemory memory_;
  const std::unique_ptr<UffdFaultServer> server_;
  EpochLedger ledger_;
  ContentComparer comparer_;
  // Whole mappings, at the last freeze. Only for what need not be right: a running target moves on.
  PageSet tracked_;
  PageSet untrackable_;
  bool scan_next_round_ = true;
  std::vector<std::string> warnings_;
};

// --- the target is running ---

absl::StatusOr<uint64_t> UffdWpTracker::CountUnarmed(const MemoryMap& map) {
  PageSet unknown;
  for (const MemoryMapping& mapping : map) {
    if (MayBeRegistered(mapping)) unknown.Add(mapping.pages());
  }
  unknown.Remove(tracked_);
  unknown.Remove(untrackable_);
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  uint64_t count = 0;
  for (PageRange run : unknown.runs()) {
    INCR_RETURN_IF_ERROR(VisitPrivateContent(scanner, run, [&](uint64_t, uint64_t) { ++count; }));
  }
  return count;
}

// What no message tells: pages that are new in holes. So that the freeze has fewer of them to copy.
absl::Status UffdWpTracker::ScanRunning(const MemoryMap& map, PageSet* written) {
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  for (const MemoryMapping& mapping : map) {
    if (!IsPrivate(mapping)) continue;
    const PageSet here = Within(tracked_, mapping);
    for (PageRange run : here.runs()) {
      Content content;
      INCR_RETURN_IF_ERROR(ReadContent(scanner, run, &content));
      written->Add(content.written);
    }
  }
  return scanner.CheckAlive();
}

// Exactly `pages`, which are about to be handed out: any other that we armed here would be one whose last
// write nobody copies. What is not mapped or not registered any more is left to the freeze, like all
// that could not be armed.
void UffdWpTracker::ArmRunning(const MemoryMap& map, const PageSet& pages) {
  for (const MemoryMapping& mapping : map) {
    if (!IsPrivate(mapping)) continue;
    const PageSet here = Within(pages, mapping);
    for (PageRange run : here.runs()) {
      (void)WriteProtect(server_->uffd(), run, /*protect=*/true);
    }
  }
}

absl::StatusOr<TakenPages> UffdWpTracker::TakeRunning(const MemoryMap& map) {
  PageSet written = server_->TakeDirty();
  absl::Status status = server_->status();
  if (status.ok() && scan_next_round_) status = ScanRunning(map, &written);
  if (status.ok()) {
    scan_next_round_ = false;
    ArmRunning(map, written);
    status = server_->status();
  }
  if (!status.ok()) {
    ledger_.PutBack(written);
    return status;
  }
  TakenPages taken;
  taken.pages_scanned = written.page_count();
  taken.written = ledger_.TakeRunning(std::move(written));
  return taken;
}

// --- the target is stopped ---

void UffdWpTracker::Warn(const MemoryMapping& mapping, const absl::Status& why) {
  warnings_.push_back(absl::StrFormat(
      "memory at %x-%x %s cannot be tracked, it is saved whole each time: %s", mapping.start,
      mapping.end, mapping.name, why.message()));
}

// Two questions: "is it registered, with whomever?", asked at a page of `content`, and "may we register
// it?", which the kernel denies for another's. Yes to both: it was ours, and its bits are true. (To arm
// pages would ask the first one too, but those of a userfaultfd of the target's own are not ours
// to arm: its threads would wait for an answer from itself.)
UffdWpTracker::MappingState UffdWpTracker::Claim(const MemoryMapping& mapping,
                                                 const PageSet& content) {
  bool registered = false;
  if (!content.empty()) {
    auto answer = IsRegistered(server_->uffd(), content.runs()[0].first);
    // The memory is gone (an exec), or our descriptor: the first shows here, the second in status().
    registered = answer.ok() && *answer;
  }
  absl::Status status = RegisterWriteProtect(server_->uffd(), mapping.pages());
  if (status.ok() && !registered) {
    status = WriteProtect(server_->uffd(), mapping.pages(), /*protect=*/false);
  }
  (status.ok() ? tracked_ : untrackable_).Add(mapping.pages());
  if (status.ok()) return registered ? MappingState::kTracked : MappingState::kNew;
  if (absl::IsInvalidArgument(status)) return MappingState::kCompare;
  if (!content.empty()) Warn(mapping, status);
  return MappingState::kWhole;
}

// The written pages, and between them clean ones, which changes nothing, but never a hole.
absl::Status UffdWpTracker::ArmFrozen(const Content& content) {
  auto clean_from = content.all.runs().begin();
  PageRange next;
  const auto arm = [&]() -> absl::Status {
    if (next.count == 0) return absl::OkStatus();
    return WriteProtect(server_->uffd(), next, /*protect=*/true);
  };
  for (PageRange run : content.written.runs()) {
    while (clean_from->end() <= run.first) ++clean_from;  // Every written page is content.
    if (next.count != 0 && next.first >= clean_from->first &&
        run.first - next.end() <= kBridgedPages) {
      next.count = run.end() - next.first;
      continue;
    }
    INCR_RETURN_IF_ERROR(arm());
    next = run;
  }
  return arm();
}

absl::Status UffdWpTracker::Compare(const PageSet& pages) {
  for (PageRange run : pages.runs()) {
    INCR_RETURN_IF_ERROR(VisitProcessPages(memory_, run, [&](uint64_t page, const uint8_t* bytes) {
      comparer_.Visit(page, bytes);
    }));
  }
  return absl::OkStatus();
}

absl::Status UffdWpTracker::TakePrivate(const PagemapScanner& scanner, const MemoryMapping& mapping,
                                        Found* found) {
  Content content;
  INCR_RETURN_IF_ERROR(ReadContent(scanner, mapping.pages(), &content));
  if (!MayBeRegistered(mapping)) return Compare(content.all);
  const MappingState state = Claim(mapping, content.all);
  if (state == MappingState::kCompare) return Compare(content.all);
  if (state != MappingState::kTracked) content.written = content.all;
  found->written.Add(content.written);  // Before it is armed: if that fails it is owed.
  found->content.Add(content.all);
  return state == MappingState::kWhole ? absl::OkStatus() : ArmFrozen(content);
}

absl::Status UffdWpTracker::TakeAll(const MemoryMap& map, Found* found) {
  found->listed = server_->TakeDirty();
  INCR_RETURN_IF_ERROR(server_->status());
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  warnings_.clear();
  tracked_.Clear();
  untrackable_.Clear();
  comparer_.Begin();
  for (const MemoryMapping& mapping : map) {
    if (IsPrivate(mapping)) {
      INCR_RETURN_IF_ERROR(TakePrivate(scanner, mapping, found));
    } else if (ClassifyMapping(mapping) == MappingClass::kSharedWritable) {
      INCR_RETURN_IF_ERROR(
          VisitSharedContent(*process_, memory_, mapping, [&](uint64_t page, const uint8_t* bytes) {
            comparer_.Visit(page, bytes);
          }));
    }
  }
  INCR_RETURN_IF_ERROR(scanner.CheckAlive());
  // If a write has gone unnoticed since the last Take, the server had failed by then.
  INCR_RETURN_IF_ERROR(server_->status());
  scan_next_round_ = true;
  found->written.Add(found->listed.Intersect(found->content));
  return absl::OkStatus();
}

absl::StatusOr<TakenPages> UffdWpTracker::TakeFrozen(const MemoryMap& map) {
  Found found;
  const absl::Status status = TakeAll(map, &found);
  if (!status.ok()) {
    ledger_.PutBack(found.listed);
    ledger_.PutBack(found.written);
    return status;
  }
  found.written.Add(comparer_.changed());
  found.content.Add(comparer_.content());
  return ledger_.TakeFrozen(std::move(found.written), std::move(found.content),
                            comparer_.content());
}

absl::Status UffdWpTracker::ArmNew(const MemoryMap& map) {
  INCR_ASSIGN_OR_RETURN(PagemapScanner scanner, PagemapScanner::Open(*process_));
  for (const MemoryMapping& mapping : map) {
    if (!MayBeRegistered(mapping)) continue;
    PageSet unknown;
    unknown.Add(mapping.pages());
    unknown.Remove(tracked_);
    if (unknown.empty()) continue;
    // Has it grown, and was tracked before? A look at its first pages must do: if there is nothing, all
    // of it counts as new.
    Content content;
    const PageRange pages = mapping.pages();
    INCR_RETURN_IF_ERROR(
        ReadContent(scanner, {pages.first, std::min(pages.count, kHugePages)}, &content));
    Claim(mapping, content.all);
  }
  scan_next_round_ = true;
  return server_->status();
}

absl::Status UffdWpTracker::Arm(const MemoryMap& map, const PageSet& known) {
  ledger_.Reset(known);
  comparer_.Reset();
  // Of a running target nothing is registered, since mappings must be whole (uffd_registry.h): ArmNew
  // does that, or the first freeze.
  if (known.empty()) return absl::OkStatus();
  Found found;
  INCR_RETURN_IF_ERROR(TakeAll(map, &found));
  comparer_.Keep();
  return absl::OkStatus();
}

void UffdWpTracker::EpochDurable() {
  ledger_.EpochDurable();
  comparer_.Keep();
}

}  // namespace

absl::StatusOr<std::unique_ptr<WriteTracker>> NewUffdWpTracker(const ProcessHandle* process,
                                                               ScopedFd uffd) {
  if (!uffd.ok()) return absl::InvalidArgumentError("uffd-wp: no userfaultfd given");
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(*process, /*writable=*/false));
  INCR_ASSIGN_OR_RETURN(auto server, UffdFaultServer::Start(std::move(uffd)));
  return std::make_unique<UffdWpTracker>(process, std::move(server), std::move(memory));
}

}  // namespace incr
