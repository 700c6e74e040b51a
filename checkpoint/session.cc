#include "checkpoint/session.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "checkpoint/agent.h"
#include "checkpoint/agent_client.h"
#include "checkpoint/capture_process.h"
#include "checkpoint/excluded_memory.h"
#include "checkpoint/file_pages.h"
#include "checkpoint/page_copier.h"
#include "checkpoint/text.h"
#include "process/fd_table.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "process/remote_memory.h"
#include "proto/image.pb.h"
#include "proto/image_check.h"
#include "tracker/write_tracker.h"

namespace incr {
namespace {

constexpr uint32_t kSpace = 0;  // of the first process's pages
constexpr int64_t kKeepFrozenEveryUs = 1'000'000;
constexpr int64_t kCallsPatienceUs = 150;
constexpr uint64_t kKeptBufferPages = 4096;  // 16 MiB

// Changes when the process executes another program: its memory, and every
// registration of ours, is then gone.
struct MmIdentity {
  uint64_t start_code, start_stack, arg_start, env_start;
  bool operator==(const MmIdentity&) const = default;
};

MmIdentity MmIdentityOf(const ProcessFacts& facts) {
  return {facts.start_code, facts.start_stack, facts.arg_start, facts.env_start};
}

absl::StatusOr<MmIdentity> ReadMmIdentity(const ProcessHandle& target) {
  INCR_ASSIGN_OR_RETURN(ProcessFacts facts, ReadProcessFacts(target));
  return MmIdentityOf(facts);
}

// While the target stands still this thread must not wait for a CPU (a thread's nice value is its
// own on Linux). Without CAP_SYS_NICE nothing happens.
class Urgency {
 public:
  Urgency() : before_(::getpriority(PRIO_PROCESS, 0)) {
    raised_ = ::setpriority(PRIO_PROCESS, 0, kUrgentNice) == 0;
  }
  Urgency(const Urgency&) = delete;
  Urgency& operator=(const Urgency&) = delete;
  ~Urgency() {
    if (raised_) (void)::setpriority(PRIO_PROCESS, 0, before_);
  }

 private:
  const int before_;
  bool raised_ = false;
};

class Session final : public CheckpointSession {
 public:
  Session(Store* store, std::unique_ptr<ProcessHandle> target, SessionOptions options)
      : store_(store),
        target_(std::move(target)),
        options_(std::move(options)),
        excluded_(options_.include_dontdump),
        file_pages_(options_.save_file_pages) {}

  absl::Status AttachFresh();
  absl::Status AttachRestored(uint64_t epoch, ScopedFd uffd);

  absl::StatusOr<EpochResult> TakeEpoch() override;
  bool target_alive() const override { return target_->alive(); }
  int target_pidfd() const override { return target_->pidfd(); }
  std::string tracker_name() const override { return tracker_name_; }
  HugePageCount huge_pages() const override { return huge_pages_.count(); }
  HugePageCount EndTracking(bool collapse) override;

 private:
  // What the freeze found; everything slow happens to it after the thaw.
  struct Frozen {
    MemoryMap map;
    pb::Image image;
    PageSet gone;
    PageSet left_out;  // had content, but is marked MADV_DONTDUMP
    int64_t time_us = 0;
    int64_t frozen_us = 0;
    uint64_t pages_scanned = 0;
  };

  void LookAtHugePages();
  absl::Status SpawnAgent();
  absl::StatusOr<ScopedFd> AttachAgent(uint64_t uffd_features);
  absl::Status AttachWith(const std::string& tracker);
  absl::Status GiveWayToItsUserfaultfds();
  absl::Status MakeTracker(ScopedFd uffd, const PageSet& known);
  absl::Status AdoptFilePages(uint64_t epoch, const PageTable& table);
  bool MayBeTheTrackers(const absl::Status& status) const;
  void DemoteTracker(const absl::Status& why);
  void DistrustTracker(const absl::Status& why);
  absl::StatusOr<std::string> FindDirectIo() const;
  absl::Status CheckNoNewDirectIo(const std::string& before);
  void SayWeAreAtWork();
  absl::StatusOr<EpochResult> AttemptEpoch();
  struct PreCopied {
    uint32_t rounds = 0;
    uint64_t last_found = 0;  // pages
  };

  absl::StatusOr<PreCopied> PreCopy(PageCopier& copier, EpochWriter& writer);
  absl::Status ArmNewMemory();
  absl::StatusOr<Frozen> FreezeAndCopy(PageCopier& copier, uint64_t expected_pages);
  absl::Status CheckSameMemory() const;
  absl::Status CopyWhileFrozen(PageCopier& copier, uint64_t scratch, Frozen* frozen);
  absl::Status Freeze(const AgentClient::FreezeOptions& options);
  absl::StatusOr<AgentClient::Thawed> Thaw();
  absl::Status DescribeMappings(Frozen* frozen);
  bool HasFlagsOfAll(const MemoryMap& map) const;
  absl::Status ReadFlags();
  absl::Status RefreshFlags();

  Store* const store_;
  const std::unique_ptr<ProcessHandle> target_;
  const SessionOptions options_;
  ExcludedMemory excluded_;
  FilePages file_pages_;
  HugePages huge_pages_;
  std::string tracker_name_;
  std::optional<AgentClient> agent_;
  std::unique_ptr<WriteTracker> tracker_;
  std::optional<RemoteMemory> memory_;
  MmIdentity mm_{};
  uint64_t parent_ = 0;
  uint64_t faults_seen_ = 0;     // of the target, at the start of the last epoch that was committed
  MemoryMap flags_;              // with VmFlags
  int64_t flags_read_us_ = 0;
  CopyBuffer copy_buffer_;
  bool started_ = false;  // an epoch became durable
  int failures_in_a_row_ = 0;
  std::vector<std::string> failed_trackers_;
  std::vector<std::string> news_;  // warnings for the next epoch
  int64_t last_sign_of_life_us_ = 0;
  int64_t armed_us_ = 0;  // of this epoch's ArmNewMemory
};

// For people; a failure has nothing to say to the epoch.
void Session::LookAtHugePages() {
  const absl::StatusOr<MemoryMap> map = ReadMaps(*target_);
  if (map.ok()) (void)huge_pages_.Look(*target_, *map);
}

HugePageCount Session::EndTracking(bool collapse) {
  LookAtHugePages();
  tracker_.reset();  // The kernel does not collapse what a userfaultfd protects.
  if (collapse) huge_pages_.Mend(*target_);
  return huge_pages_.count();
}

absl::Status Session::SpawnAgent() {
  agent_.reset();
  INCR_ASSIGN_OR_RETURN(AgentClient agent, AgentClient::Spawn(options_.agent_command));
  agent_.emplace(std::move(agent));
  return absl::OkStatus();
}

// `known`: see WriteTracker::Arm. A tracker that could not be armed knows nothing and stays out.
absl::Status Session::MakeTracker(ScopedFd uffd, const PageSet& known) {
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(*target_, /*writable=*/false));
  INCR_ASSIGN_OR_RETURN(mm_, ReadMmIdentity(*target_));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<WriteTracker> tracker,
                        NewWriteTracker(tracker_name_, target_.get(), std::move(uffd)));
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(*target_));
  (void)huge_pages_.Look(*target_, map);
  INCR_RETURN_IF_ERROR(tracker->Arm(map, known));
  memory_.emplace(std::move(memory));
  tracker_ = std::move(tracker);
  tracker_->set_heartbeat([this] { SayWeAreAtWork(); });
  return absl::OkStatus();
}

// An agent that could not attach may be dead, or hold a thread that does not stop: another next time.
absl::StatusOr<ScopedFd> Session::AttachAgent(uint64_t uffd_features) {
  if (!agent_) INCR_RETURN_IF_ERROR(SpawnAgent());
  absl::StatusOr<ScopedFd> uffd = agent_->Attach(*target_, uffd_features);
  if (!uffd.ok()) agent_.reset();
  return uffd;
}

absl::Status Session::AttachFresh() {
  tracker_.reset();
  file_pages_.Reset();
  parent_ = 0;
  INCR_RETURN_IF_ERROR(GiveWayToItsUserfaultfds());
  for (;;) {
    std::string why;
    // Asked for by name and failed in mid-life: another one, which is said, rather than no epochs.
    INCR_ASSIGN_OR_RETURN(tracker_name_, ChooseTracker(failed_trackers_.empty() ? options_.tracker
                                                                                : std::string(),
                                                       &why, failed_trackers_));
    const absl::Status status = AttachWith(tracker_name_);
    if (status.ok() || !MayBeTheTrackers(status)) return status;
    if (!started_ && !options_.tracker.empty()) return status;
    DemoteTracker(status);
  }
}

absl::Status Session::AttachWith(const std::string& tracker) {
  INCR_ASSIGN_OR_RETURN(ScopedFd uffd, AttachAgent(UffdFeaturesOfTracker(tracker)));
  return MakeTracker(std::move(uffd), PageSet());
}

// Memory that we have registered the program cannot register itself (EBUSY). One that uses userfaultfd
// gets a tracker without, unless one was asked for.
absl::Status Session::GiveWayToItsUserfaultfds() {
  if (!options_.tracker.empty()) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const std::vector<FdEntry> table, ReadFdTable(*target_));
  const auto own = std::find_if(table.begin(), table.end(), [](const FdEntry& entry) {
    return entry.link == "anon_inode:[userfaultfd]";
  });
  if (own == table.end()) return absl::OkStatus();
  for (const std::string& name : TrackerNames()) {
    if (UffdFeaturesOfTracker(name) == 0 || absl::c_linear_search(failed_trackers_, name)) continue;
    failed_trackers_.push_back(name);
    news_.push_back(absl::StrCat("the program uses userfaultfd itself (fd ", own->fd, "): ", name,
                                 " would be in its way and is not used; --tracker ", name,
                                 " insists on it"));
  }
  return absl::OkStatus();
}

// Not the target's end, nor another tracer, nor a thread that does not stop: `compare` would meet
// those as well.
bool Session::MayBeTheTrackers(const absl::Status& status) const {
  return target_->alive() && tracker_name_ != TrackerNames().back() &&
         !absl::IsNotFound(status) && !absl::IsAborted(status) &&
         !absl::IsDeadlineExceeded(status) && !absl::IsFailedPrecondition(status);
}

void Session::DemoteTracker(const absl::Status& why) {
  failed_trackers_.push_back(tracker_name_);
  news_.push_back(absl::StrCat("the tracker ", tracker_name_, " has failed and is not used any more: ",
                               why.message()));
}

// After an error of a Take nothing is known of what was written: the next epoch is full. Once may be
// chance; a back end that fails twice with no epoch in between is given up.
void Session::DistrustTracker(const absl::Status& why) {
  tracker_.reset();
  if (!target_->alive() || absl::IsNotFound(why)) return;
  news_.push_back(absl::StrCat("tracking by ", tracker_name_, " began anew, with a full epoch: ",
                               why.message()));
  if (++failures_in_a_row_ > 1 && tracker_name_ != TrackerNames().back()) DemoteTracker(why);
}

absl::Status Session::AttachRestored(uint64_t epoch, ScopedFd uffd) {
  INCR_RETURN_IF_ERROR(AttachAgent(0).status());
  std::string why;
  INCR_ASSIGN_OR_RETURN(tracker_name_, ChooseTracker(options_.tracker, &why));
  if (UffdFeaturesOfTracker(tracker_name_) != 0 && !uffd.ok()) {
    return absl::InvalidArgumentError("adopt: the restored process came without a userfaultfd");
  }
  INCR_ASSIGN_OR_RETURN(PageTable table, store_->LoadPageTable(options_.job, epoch));
  INCR_RETURN_IF_ERROR(MakeTracker(std::move(uffd), PagesOfSpace(table, kSpace)));
  INCR_RETURN_IF_ERROR(AdoptFilePages(epoch, table));
  parent_ = epoch;
  started_ = true;
  return absl::OkStatus();
}

absl::Status Session::AdoptFilePages(uint64_t epoch, const PageTable& table) {
  if (table.empty() || table.back().space < kFirstFileSpace) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const std::string bytes, store_->ReadImage(options_.job, epoch));
  INCR_ASSIGN_OR_RETURN(const pb::Image image, ParseImage(bytes));
  file_pages_.Adopt(image.processes(0), table);
  return absl::OkStatus();
}

absl::StatusOr<EpochResult> Session::TakeEpoch() {
  absl::StatusOr<EpochResult> result = AttemptEpoch();
  if ((absl::IsAborted(result.status()) || absl::IsNotFound(result.status())) &&
      target_->alive()) {
    // It moved under our hands: once more, from there. What is not found of a living process is the
    // memory it had before an exec.
    if (absl::IsNotFound(result.status())) tracker_.reset();
    if (tracker_ != nullptr) tracker_->EpochFailed();
    result = AttemptEpoch();
  }
  if (result.ok()) {
    tracker_->EpochDurable();
    file_pages_.EpochDurable();
    if (huge_pages_.LookIsCheap()) LookAtHugePages();
    parent_ = result->record.epoch();
    started_ = true;
    failures_in_a_row_ = 0;
    const std::vector<std::string> untracked = tracker_->warnings();
    result->warnings.insert(result->warnings.end(), untracked.begin(), untracked.end());
    result->warnings.insert(result->warnings.end(), news_.begin(), news_.end());
    news_.clear();
    return result;
  }
  if (tracker_ != nullptr) tracker_->EpochFailed();
  if (!target_->alive()) {
    return absl::NotFoundError(absl::StrCat("process ", target_->pid(), " has exited"));
  }
  return result.status();
}

absl::StatusOr<EpochResult> Session::AttemptEpoch() {
  const Stopwatch total;
  armed_us_ = 0;
  INCR_ASSIGN_OR_RETURN(const ProcessFacts facts, ReadProcessFacts(*target_));
  // After an exec, or after a tracker error, nothing known of the memory holds: start
  // a full epoch rather than go on blind.
  if (tracker_ == nullptr || MmIdentityOf(facts) != mm_) INCR_RETURN_IF_ERROR(AttachFresh());
  if (!agent_) INCR_RETURN_IF_ERROR(AttachAgent(0).status());
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<EpochWriter> writer,
                        store_->BeginEpoch(options_.job, parent_));
  PageCopier copier(&*memory_, writer.get(), kSpace, &copy_buffer_);

  INCR_RETURN_IF_ERROR(RefreshFlags());
  excluded_.Begin(flags_);
  EpochResult result;
  PreCopied precopied;
  INCR_ASSIGN_OR_RETURN(const std::string direct, FindDirectIo());
  if (direct.empty()) {
    // The first write to a page that is tracked is a fault: few faults, few pages. (Or more, if others
    // write to its memory: then the freeze is longer.)
    if (parent_ == 0 || facts.faults - faults_seen_ > options_.precopy_target_pages) {
      INCR_RETURN_IF_ERROR(ArmNewMemory());
      INCR_ASSIGN_OR_RETURN(precopied, PreCopy(copier, *writer));
    }
  } else {
    result.warnings.push_back(absl::StrCat(
        direct, ": open for direct I/O, which writes to memory unseen; all pages are copied in the "
                "freeze, which takes longer"));
  }
  INCR_RETURN_IF_ERROR(FaultPoint("checkpoint.before_freeze"));
  INCR_ASSIGN_OR_RETURN(Frozen frozen, FreezeAndCopy(copier, precopied.last_found));
  INCR_RETURN_IF_ERROR(FaultPoint("checkpoint.after_thaw"));
  INCR_RETURN_IF_ERROR(CheckNoNewDirectIo(direct));

  INCR_RETURN_IF_ERROR(DescribeMappings(&frozen));  // Soon: files change.
  INCR_RETURN_IF_ERROR(
      file_pages_.Save(*target_, writer.get(), frozen.image.mutable_processes(0)));
  INCR_RETURN_IF_ERROR(copier.AddFromMemory());
  if (copy_buffer_.pages > kKeptBufferPages) copy_buffer_ = {};
  for (const PageRange& run : frozen.gone.runs()) {
    INCR_RETURN_IF_ERROR(writer->AddGone(kSpace, run));
  }

  result.warnings.insert(result.warnings.end(), frozen.image.warnings().begin(),
                         frozen.image.warnings().end());
  pb::EpochRecord record;
  record.set_pid(target_->pid());
  record.set_time_us(frozen.time_us);
  record.set_tracker(tracker_name_);
  record.mutable_stats()->set_pages_scanned(frozen.pages_scanned);
  record.mutable_stats()->set_frozen_us(armed_us_ + frozen.frozen_us);
  record.mutable_stats()->set_precopy_rounds(precopied.rounds);
  record.mutable_stats()->set_total_us(total.elapsed_us());
  INCR_ASSIGN_OR_RETURN(result.record,
                        writer->Commit(std::move(record), frozen.image.SerializeAsString()));
  faults_seen_ = facts.faults;  // Not of an epoch that failed: what it owes wants a pre-copy.
  result.record.mutable_stats()->set_total_us(total.elapsed_us());
  return result;
}

absl::StatusOr<Session::PreCopied> Session::PreCopy(PageCopier& copier,
                                                      EpochWriter& writer) {
  PreCopied done;
  uint64_t previous = UINT64_MAX;
  while (done.rounds < static_cast<uint32_t>(options_.max_precopy_rounds)) {
    INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(*target_));
    absl::StatusOr<TakenPages> taken = tracker_->TakeRunning(map);
    if (!taken.ok()) {
      DistrustTracker(taken.status());
      return taken.status();
    }
    tracker_->PutBack(excluded_.HoldBack(&taken->written));
    ++done.rounds;
    done.last_found = taken->written.page_count();
    PageSet unreadable;
    INCR_RETURN_IF_ERROR(
        copier.Stream(taken->written, &unreadable, [] { return absl::OkStatus(); }));
    // Unmapped while we read, or on its way: the freeze decides.
    tracker_->PutBack(unreadable);
    // Compressing workers on every core would make the target wait for one in the freeze.
    INCR_RETURN_IF_ERROR(writer.Settle());
    // A target that dirties as fast as we copy gains nothing from another round.
    if (done.last_found <= options_.precopy_target_pages) break;
    if (done.last_found > previous / 4 * 3) break;
    previous = done.last_found;
  }
  return done;
}

// While the target stands still two processes work: this one scans and copies, the agent reads the
// target's state.
absl::StatusOr<Session::Frozen> Session::FreezeAndCopy(PageCopier& copier,
                                                       uint64_t expected_pages) {
  Frozen frozen;
  copier.Reserve(std::clamp(expected_pages * 2, options_.precopy_target_pages * 4,
                            options_.frozen_buffer_bytes / kPageSize));
  INCR_ASSIGN_OR_RETURN(const MemoryMap map, ReadMaps(*target_));
  tracker_->LookAhead(map);
  const Urgency urgency;
  const uint64_t scratch = MiddleOfWidestGap(map);
  INCR_RETURN_IF_ERROR(Freeze({.allow_unsupported = options_.allow_unsupported,
                               .deleted_files = options_.save_file_pages,
                               .scratch = scratch,
                               // An oracle wants to see what we see: not the rseq area of a thread
                               // that has run again.
                               .settled = options_.while_frozen != nullptr}));
  frozen.time_us = WallMicros();
  const absl::Status copied = CopyWhileFrozen(copier, scratch, &frozen);
  if (options_.while_frozen) options_.while_frozen();
  INCR_ASSIGN_OR_RETURN(AgentClient::Thawed thawed, Thaw());
  INCR_RETURN_IF_ERROR(CheckSameMemory());
  INCR_RETURN_IF_ERROR(copied);
  if (thawed.state.ok() && thawed.scratch != scratch) {
    return absl::AbortedError("the target's maps were read with memory of our own in them");
  }
  INCR_RETURN_IF_ERROR(thawed.state);
  frozen.image = std::move(thawed.image);
  frozen.frozen_us = thawed.frozen_us;
  return frozen;
}

absl::Status Session::Freeze(const AgentClient::FreezeOptions& options) {
  const absl::Status status = agent_->Freeze(options);
  // After a deadline it has ended, since a thread that does not stop cannot be let go otherwise.
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) agent_.reset();
  last_sign_of_life_us_ = MonotonicMicros();
  return status;
}

// Or the agent would take us for hung and let the target go.
void Session::SayWeAreAtWork() {
  const int64_t now_us = MonotonicMicros();
  if (!agent_ || now_us - last_sign_of_life_us_ < kKeepFrozenEveryUs) return;
  last_sign_of_life_us_ = now_us;
  (void)agent_->KeepFrozen();  // If it is gone, Thaw() will tell.
}

// A scan of a target that ran meanwhile may have re-armed a page without seeing its last write: the
// tracker is then not to be believed.
absl::StatusOr<AgentClient::Thawed> Session::Thaw() {
  absl::StatusOr<AgentClient::Thawed> thawed = agent_->Thaw();
  if (!thawed.ok() || !thawed->held) tracker_.reset();
  if (thawed.ok() && !thawed->held && thawed->state.ok()) {
    thawed->state = absl::InternalError("the target was let go before its state was read");
  }
  if (absl::IsUnavailable(thawed.status())) agent_.reset();
  return thawed;
}

// "fd 7 (/a/file)", or nothing. The pages of a direct read under way are pinned and written without a
// fault: a round that re-arms such a page while the target runs would never hear of it. In a freeze none
// is under way, since a thread does not stop before its read is done.
absl::StatusOr<std::string> Session::FindDirectIo() const {
  INCR_ASSIGN_OR_RETURN(const std::vector<FdEntry> table, ReadFdTable(*target_));
  for (const FdEntry& entry : table) {
    // (Of a pipe O_DIRECT says something else.)
    if ((entry.flags & O_DIRECT) != 0 && absl::StartsWith(entry.link, "/")) {
      return absl::StrCat("fd ", entry.fd, " (", PrintableUtf8(entry.link), ")");
    }
  }
  return std::string();
}

// Opened while the pre-copy was at work: it may have re-armed a page under a read that began meanwhile.
absl::Status Session::CheckNoNewDirectIo(const std::string& before) {
  if (!before.empty()) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const std::string now, FindDirectIo());
  if (now.empty()) return absl::OkStatus();
  tracker_.reset();
  return absl::AbortedError(absl::StrCat(now, ": opened for direct I/O during the checkpoint"));
}

// New memory that is not yet tracked would all be copied in the freeze. Where it is much, a stop of
// its own, far shorter, arms it first, and the pre-copy gets it.
absl::Status Session::ArmNewMemory() {
  INCR_ASSIGN_OR_RETURN(const MemoryMap map, ReadMaps(*target_));
  INCR_ASSIGN_OR_RETURN(const uint64_t unarmed, tracker_->CountUnarmed(map));
  if (unarmed < options_.arm_first_pages) return absl::OkStatus();
  const Urgency urgency;
  INCR_RETURN_IF_ERROR(Freeze({.bare = true}));
  const absl::StatusOr<MemoryMap> exact = ReadMaps(*target_);
  const absl::Status armed = exact.ok() ? tracker_->ArmNew(*exact) : exact.status();
  INCR_ASSIGN_OR_RETURN(const AgentClient::Thawed thawed, Thaw());
  INCR_RETURN_IF_ERROR(CheckSameMemory());
  armed_us_ = thawed.frozen_us;
  INCR_RETURN_IF_ERROR(armed);
  return thawed.state;
}

// After the thaw: an exec before it has changed them for good.
absl::Status Session::CheckSameMemory() const {
  INCR_ASSIGN_OR_RETURN(MmIdentity mm, ReadMmIdentity(*target_));
  if (mm == mm_) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("process ", target_->pid(),
                                         " executed another program during the checkpoint"));
}

// `scratch`: where the agent may have a mapping for a moment.
absl::Status Session::CopyWhileFrozen(PageCopier& copier, uint64_t scratch, Frozen* frozen) {
  absl::StatusOr<MemoryMap> map = ReadMaps(*target_);
  absl::StatusOr<PageSet> excluded = excluded_.Decide(*target_);
  INCR_RETURN_IF_ERROR(map.status());
  INCR_RETURN_IF_ERROR(excluded.status());
  frozen->map = *std::move(map);
  std::erase_if(frozen->map,
                [&](const MemoryMapping& mapping) { return mapping.start == scratch; });
  tracker_->Exclude(*std::move(excluded));
  INCR_RETURN_IF_ERROR(agent_->AwaitCalls(kCallsPatienceUs));
  absl::StatusOr<TakenPages> taken = tracker_->TakeFrozen(frozen->map);
  if (!taken.ok()) {
    DistrustTracker(taken.status());
    return taken.status();
  }
  frozen->gone = std::move(taken->gone);
  frozen->left_out = std::move(taken->excluded);
  frozen->pages_scanned = taken->pages_scanned;
  PageSet unreadable;
  if (taken->written.page_count() * kPageSize <= options_.frozen_buffer_bytes) {
    INCR_RETURN_IF_ERROR(copier.ReadIntoMemory(taken->written, &unreadable));
  } else {
    INCR_RETURN_IF_ERROR(copier.Stream(taken->written, &unreadable, [&] {
      SayWeAreAtWork();
      return absl::OkStatus();
    }));
  }
  // Nothing moves in a freeze: what cannot be read now (beyond the end of its file) has no
  // content, and a restore finds it so again.
  frozen->gone.Add(unreadable);
  return absl::OkStatus();
}

// After the thaw: `frozen->map` is the moment's truth, only file identities and VM flags are
// looked up now.
absl::Status Session::DescribeMappings(Frozen* frozen) {
  if (!HasFlagsOfAll(frozen->map)) INCR_RETURN_IF_ERROR(ReadFlags());
  INCR_RETURN_IF_ERROR(CaptureMappings(*target_, frozen->map, flags_, frozen->time_us,
                                       options_.allow_unsupported,
                                       frozen->image.mutable_processes(0), &frozen->image,
                                       options_.save_file_pages));
  excluded_.Record(frozen->left_out, frozen->image.mutable_processes(0), &frozen->image);
  return absl::OkStatus();
}

bool Session::HasFlagsOfAll(const MemoryMap& map) const {
  auto flagged = flags_.begin();
  return std::all_of(map.begin(), map.end(), [&](const MemoryMapping& mapping) {
    while (flagged != flags_.end() && flagged->start < mapping.start) ++flagged;
    return flagged != flags_.end() && flagged->SameButFlags(mapping);
  });
}

absl::Status Session::ReadFlags() {
  INCR_ASSIGN_OR_RETURN(flags_, ReadSmaps(*target_));
  flags_read_us_ = MonotonicMicros();
  return absl::OkStatus();
}

// The kernel gives them only with statistics for which it walks every page table, 10 ms per GiB. So
// they are up to a second old, which only epochs that follow faster can tell: advice (madvise)
// of the last second may be missing in those.
absl::Status Session::RefreshFlags() {
  if (flags_read_us_ != 0 && MonotonicMicros() - flags_read_us_ < options_.flags_fresh_us) {
    return absl::OkStatus();
  }
  return ReadFlags();
}

absl::StatusOr<std::unique_ptr<Session>> NewSession(Store* store, pid_t pid,
                                                    const SessionOptions& options) {
  INCR_ASSIGN_OR_RETURN(ProcessHandle target, ProcessHandle::Open(pid));
  return std::make_unique<Session>(store, std::make_unique<ProcessHandle>(std::move(target)),
                                   options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointSession>> CheckpointSession::Start(
    Store* store, pid_t pid, const SessionOptions& options) {
  INCR_ASSIGN_OR_RETURN(ProcessHandle target, ProcessHandle::Open(pid));
  INCR_RETURN_IF_ERROR(CheckTrackable(target));
  auto session = std::make_unique<Session>(
      store, std::make_unique<ProcessHandle>(std::move(target)), options);
  INCR_RETURN_IF_ERROR(session->AttachFresh());
  return session;
}

absl::StatusOr<std::unique_ptr<CheckpointSession>> CheckpointSession::Adopt(
    Store* store, pid_t pid, uint64_t epoch, ScopedFd uffd, const SessionOptions& options) {
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, NewSession(store, pid, options));
  INCR_RETURN_IF_ERROR(session->AttachRestored(epoch, std::move(uffd)));
  return session;
}

}  // namespace incr
