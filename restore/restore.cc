#include "restore/restore.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "process/registers.h"
#include "process/stopped_child.h"
#include "proto/image_check.h"
#include "restore/build_memory.h"
#include "restore/build_process.h"
#include "restore/build_threads.h"
#include "restore/check.h"
#include "restore/load_pages.h"
#include "restore/open_files.h"
#include "restore/plan.h"
#include "restore/saved_files.h"
#include "restore/socket_files.h"
#include "restore/sources.h"
#include "restore/workbench.h"

namespace incr {
namespace {

// The image may have descriptors above our soft limit; the old limit comes back at the end.
class RaisedDescriptorLimit {
 public:
  RaisedDescriptorLimit() {
    if (::getrlimit(RLIMIT_NOFILE, &before_) != 0) return;
    const rlimit raised{before_.rlim_max, before_.rlim_max};
    changed_ = ::setrlimit(RLIMIT_NOFILE, &raised) == 0;
  }
  ~RaisedDescriptorLimit() {
    if (changed_) ::setrlimit(RLIMIT_NOFILE, &before_);
  }
  RaisedDescriptorLimit(const RaisedDescriptorLimit&) = delete;
  RaisedDescriptorLimit& operator=(const RaisedDescriptorLimit&) = delete;

 private:
  rlimit before_{};
  bool changed_ = false;
};

class RestoredProcessImpl : public RestoredProcess {
 public:
  RestoredProcessImpl(StoppedChild child, pb::Image image, ScopedFd uffd,
                      SocketFiles socket_files)
      : child_(std::move(child)),
        pid_(child_.pid()),
        image_(std::move(image)),
        uffd_(std::move(uffd)),
        socket_files_(std::move(socket_files)) {}

  pid_t pid() const override { return pid_; }
  const pb::Image& image() const override { return image_; }
  ScopedFd TakeUserfaultfd() override { return std::move(uffd_); }

  absl::Status Release() override {
    // A pending SIGSTOP cannot be blocked, hence not be queued while the process is built.
    for (const std::string& info : image_.processes(0).pending_signals()) {
      int signal;
      memcpy(&signal, info.data(), sizeof signal);
      if (signal == SIGSTOP) INCR_RETURN_IF_ERROR(child_.process().SendSignal(SIGSTOP));
    }
    INCR_RETURN_IF_ERROR(child_.Release());
    socket_files_.Keep();
    return absl::OkStatus();
  }

 private:
  StoppedChild child_;
  const pid_t pid_;
  pb::Image image_;
  ScopedFd uffd_;
  SocketFiles socket_files_;
};

// One restore, step by step. Members in the order in which they come to be.
class Restore {
 public:
  Restore(const StoreReader& store, pb::Image image, RestorePlan plan, bool exe_may_differ)
      : store_(store),
        exe_may_differ_(exe_may_differ),
        image_(std::move(image)),
        process_(image_.processes(0)),
        plan_(std::move(plan)) {}

  absl::StatusOr<std::unique_ptr<RestoredProcess>> Run(const RestoreOptions& options);

 private:
  absl::Status Prepare();
  void LeaveOutParentDeathSignals();
  absl::Status Build();
  absl::Status CheckXstateSize() const;
  absl::Status BuildMemory(Workbench& bench);
  absl::Status BuildThreads(Workbench& bench);
  absl::Status Finish(Workbench& bench);
  std::vector<int> InheritedDescriptors() const;

  const StoreReader& store_;
  const bool exe_may_differ_;
  pb::Image image_;
  const pb::Process& process_;
  const RestorePlan plan_;
  RaisedDescriptorLimit raised_limit_;
  std::optional<PreparedFiles> files_;
  OpenSources sources_;
  std::optional<StoppedChild> child_;
};

absl::Status Restore::Prepare() {
  INCR_RETURN_IF_ERROR(CheckMachine(image_.machine(), process_));
  INCR_RETURN_IF_ERROR(CheckUser(process_));
  INCR_RETURN_IF_ERROR(CheckIdsFree(process_));
  INCR_ASSIGN_OR_RETURN(const int first_free, ReserveDescriptors(image_, process_));
  INCR_ASSIGN_OR_RETURN(sources_,
                        OpenPlanSources(plan_, process_.exe(), exe_may_differ_, first_free));
  if (!sources_.exe_is_other.empty()) {
    image_.add_warnings(absl::StrCat(
        sources_.exe_is_other, "; /proc/", process_.pid(), "/exe of the restored process is ",
        sources_.exe.ok() ? "what is there now" : "incr-ckpt's own program file"));
  }
  INCR_ASSIGN_OR_RETURN(PreparedFiles files, PrepareFiles(image_, process_));
  files_.emplace(std::move(files));
  if (plan_.pages_without_mapping > 0) {
    image_.add_warnings(absl::StrCat(plan_.pages_without_mapping,
                                     " pages of the epoch belong to no mapping and are left out"));
  }
  return absl::OkStatus();
}

void Restore::LeaveOutParentDeathSignals() {
  for (pb::Thread& thread : *image_.mutable_processes(0)->mutable_threads()) {
    if (thread.parent_death_signal() == 0) continue;
    image_.add_warnings(absl::StrCat(
        "thread ", thread.tid(), " had asked for signal ", thread.parent_death_signal(),
        " at its parent's death (PR_SET_PDEATHSIG); its new parent ends at once, so this is "
        "not restored"));
    thread.set_parent_death_signal(0);
  }
}

std::vector<int> Restore::InheritedDescriptors() const {
  std::vector<int> keep;
  if (sources_.exe.ok()) keep.push_back(sources_.exe.get());
  for (const ScopedFd& fd : sources_.fds) keep.push_back(fd.get());
  return keep;
}

// The kernel takes extended state only whole, in the layout of this machine.
absl::Status Restore::CheckXstateSize() const {
  INCR_ASSIGN_OR_RETURN(std::string own, GetXstate(child_->pid()));
  for (const pb::Thread& thread : process_.threads()) {
    if (thread.xstate().size() == own.size()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the epoch was taken on another kind of CPU: thread ", thread.tid(), " has ",
                     thread.xstate().size(), " bytes of extended state, this machine ", own.size()));
  }
  return absl::OkStatus();
}

absl::Status Restore::BuildMemory(Workbench& bench) {
  INCR_RETURN_IF_ERROR(Annotate(ReplaceAddressSpace(bench, plan_), "emptying the address space"));
  INCR_RETURN_IF_ERROR(RestoreMemoryAttributes(bench, process_, &image_));
  INCR_RETURN_IF_ERROR(Annotate(MapAll(bench, plan_, sources_), "mapping"));
  INCR_RETURN_IF_ERROR(
      Annotate(LoadPrivatePages(store_, plan_, bench.memory(), sources_), "loading pages"));
  INCR_RETURN_IF_ERROR(Annotate(VerifyFilePages(store_, plan_), "shared files"));
  INCR_RETURN_IF_ERROR(Annotate(FinishMappings(bench, plan_, &image_), "protecting"));
  return Annotate(SetLayout(bench, process_.layout(), sources_.exe.get()), "memory layout");
}

absl::Status Restore::BuildThreads(Workbench& bench) {
  INCR_RETURN_IF_ERROR(
      CreateThreads(bench, process_, [this](pid_t tid) { child_->AddThread(tid); }));
  INCR_RETURN_IF_ERROR(RestoreOtherThreads(bench, process_, &image_));
  return RestoreThread(bench, bench.leader(), process_.threads(0), &image_);
}

// What must come last in the child: descriptors that only we needed, timers, limits.
absl::Status Restore::Finish(Workbench& bench) {
  for (int fd : InheritedDescriptors()) {
    INCR_RETURN_IF_ERROR(bench.leader().Call("close", SYS_close, fd).status());
  }
  INCR_RETURN_IF_ERROR(
      FinishFiles(bench.leader(), bench.memory(), bench.arguments(), process_, image_));
  INCR_RETURN_IF_ERROR(RestorePendingAndTimers(bench, process_));
  INCR_RETURN_IF_ERROR(RestoreLimits(process_, &image_));
  RestoreScheduling(process_, &image_);
  return absl::OkStatus();
}

absl::Status Restore::Build() {
  INCR_RETURN_IF_ERROR(CheckXstateSize());
  INCR_RETURN_IF_ERROR(RaiseDescriptorLimit(child_->pid()));
  INCR_ASSIGN_OR_RETURN(Workbench bench, Workbench::SetUp(child_->process(), plan_));
  INCR_RETURN_IF_ERROR(child_->UnregisterInheritedRseq(bench.leader()));
  INCR_RETURN_IF_ERROR(RestoreJobControl(bench, process_));
  INCR_RETURN_IF_ERROR(Annotate(
      InstallFiles(bench.leader(), bench.memory(), bench.arguments(), process_, image_, *files_,
                   InheritedDescriptors()),
      "descriptors"));
  INCR_RETURN_IF_ERROR(BuildMemory(bench));
  INCR_RETURN_IF_ERROR(RestoreAttributes(bench, process_, &image_));
  INCR_RETURN_IF_ERROR(BuildThreads(bench));
  INCR_RETURN_IF_ERROR(Finish(bench));
  INCR_ASSIGN_OR_RETURN(RemoteAddr instruction, FindSyscallInstruction(child_->process()));
  INCR_RETURN_IF_ERROR(bench.Clear(instruction));
  return Annotate(bench.leader().End(), "registers of the first thread");
}

absl::StatusOr<std::unique_ptr<RestoredProcess>> Restore::Run(const RestoreOptions& options) {
  if (options.outlives_caller) LeaveOutParentDeathSignals();
  INCR_RETURN_IF_ERROR(Prepare());
  INCR_ASSIGN_OR_RETURN(StoppedChild child,
                        StoppedChild::Clone(static_cast<pid_t>(process_.pid())));
  child_.emplace(std::move(child));
  INCR_RETURN_IF_ERROR(Build());
  ScopedFd uffd;
  if (options.uffd_features != 0) {
    INCR_ASSIGN_OR_RETURN(uffd, child_->CreateUserfaultfd(options.uffd_features));
  }
  // These files outlive us: only now, when nothing else can fail; and not later, since a tracker
  // that takes the process over compares what they hold.
  INCR_RETURN_IF_ERROR(Annotate(WriteBackFilePages(store_, plan_, sources_), "shared files"));
  return std::make_unique<RestoredProcessImpl>(*std::move(child_), std::move(image_),
                                               std::move(uffd), std::move(files_->socket_files));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RestoredProcess>> RestoreEpoch(const StoreReader& store,
                                                              absl::string_view job,
                                                              uint64_t epoch,
                                                              const RestoreOptions& options) {
  const std::string name = absl::StrCat("restore of job ", job, ", epoch ", epoch);
  INCR_RETURN_IF_ERROR(store.GetEpoch(job, epoch).status());
  INCR_ASSIGN_OR_RETURN(std::string bytes, store.ReadImage(job, epoch));
  auto image = ParseImage(bytes);
  if (!image.ok()) return Annotate(image.status(), name);
  if (image->processes_size() != 1) {
    return absl::UnimplementedError(
        absl::StrCat(name, ": it holds ", image->processes_size(), " processes"));
  }
  INCR_ASSIGN_OR_RETURN(PageTable table, store.LoadPageTable(job, epoch));
  const auto changed = FindChangedFiles(image->processes(0));
  const absl::Status rebuilt =
      RebuildFromSavedPages(changed, &*image, image->mutable_processes(0), &table);
  if (!rebuilt.ok()) return Annotate(rebuilt, name);
  const bool exe_may_differ = !ProgramIsMapped(image->processes(0));
  auto plan = PlanRestore(*image, image->processes(0), table);
  if (!plan.ok()) return Annotate(plan.status(), name);
  auto restored = Restore(store, *std::move(image), *std::move(plan), exe_may_differ).Run(options);
  if (!restored.ok()) return Annotate(restored.status(), name);
  return restored;
}

}  // namespace incr
