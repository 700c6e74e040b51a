#include "checkpoint/unsupported.h"

#include <linux/sched.h>

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "process/fd_table.h"

namespace incr {
namespace {

absl::StatusOr<std::string> Namespace(const std::string& proc, const char* name) {
  return ReadLink(absl::StrCat(proc, "/ns/", name));
}

absl::Status FindForeignNamespaces(const ProcessHandle& target, std::vector<std::string>* found) {
  for (const char* name : {"pid", "mnt", "net", "user", "ipc", "uts", "time"}) {
    auto ours = Namespace("/proc/self", name);
    if (!ours.ok()) continue;  // This kernel has no such namespaces.
    INCR_ASSIGN_OR_RETURN(std::string theirs, ReadLink(target.ProcPath(absl::StrCat("ns/", name))));
    if (theirs == *ours) continue;
    found->push_back(absl::StrCat("it is in a ", name, " namespace of its own"));
  }
  return absl::OkStatus();
}

// Credentials beyond uid and gid are not in the image.
absl::Status WarnOfOtherCredentials(absl::string_view status_text, pb::Image* image) {
  INCR_ASSIGN_OR_RETURN(std::string own, ReadWholeFile("/proc/self/status"));
  std::vector<std::string> different;
  for (const char* name : {"CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "Groups"}) {
    if (StatusField(status_text, name) != StatusField(own, name)) different.push_back(name);
  }
  if (!different.empty()) {
    image->add_warnings(absl::StrCat("its credentials differ from ours (",
                                     absl::StrJoin(different, ", "),
                                     "): it comes back with those of the restore command"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string StatusField(absl::string_view status_text, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(status_text, '\n')) {
    if (absl::ConsumePrefix(&line, name) && absl::ConsumePrefix(&line, ":")) {
      return std::string(absl::StripAsciiWhitespace(line));
    }
  }
  return "";
}

absl::Status FindLastingUnsupported(const ProcessHandle& target, const ProcessFacts& facts,
                                    absl::string_view status_text, pb::Image* image,
                                    std::vector<std::string>* found) {
  INCR_RETURN_IF_ERROR(WarnOfOtherCredentials(status_text, image));
  if (facts.seccomp_mode != 0) found->push_back("it has a seccomp filter");
  INCR_RETURN_IF_ERROR(FindForeignNamespaces(target, found));
  if (absl::StrContains(StatusField(status_text, "x86_Thread_features"), "shstk")) {
    found->push_back("it has a shadow stack");
  }
  return absl::OkStatus();
}

absl::Status FindThreadsApart(const ProcessHandle& target, absl::string_view leader_status_text,
                              std::vector<std::string>* found) {
  INCR_ASSIGN_OR_RETURN(const std::vector<pid_t> tids, ListThreads(target));
  for (const pid_t tid : tids) {
    if (tid == target.pid()) continue;
    const auto status = ReadWholeFile(target.ProcPath(absl::StrCat("task/", tid, "/status")));
    const auto shares = SharesFilesAndDirectories(target, tid);
    if (!status.ok() || !shares.ok()) continue;  // It has ended.
    for (const char* name : {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd",
                             "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"}) {
      if (StatusField(*status, name) == StatusField(leader_status_text, name)) continue;
      found->push_back(absl::StrCat("thread ", tid, " differs from the others in ", name));
    }
    if (!*shares) {
      found->push_back(absl::StrCat("thread ", tid,
                                    " has descriptors or a working directory of its own"));
    }
  }
  return absl::OkStatus();
}

absl::Status FindMomentaryUnsupported(const ProcessHandle& target, const FrozenState& state,
                                      std::vector<std::string>* found) {
  if (state.shared.may_have_children) {
    std::vector<pid_t> tids;
    for (const ThreadState& thread : state.threads) tids.push_back(thread.tid);
    INCR_ASSIGN_OR_RETURN(std::vector<pid_t> children, ListChildren(target, tids));
    if (!children.empty()) {
      found->push_back(absl::StrCat("it has child processes (", absl::StrJoin(children, ", "), ")"));
    }
  }
  if (state.shared.has_posix_timers) found->push_back("it has POSIX timers (timer_create)");
  for (const ThreadState& thread : state.threads) {
    if ((thread.sched_policy & ~SCHED_RESET_ON_FORK) == SCHED_DEADLINE) {
      found->push_back(absl::StrCat("thread ", thread.tid, " has a SCHED_DEADLINE reservation"));
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseUnsupported(const ProcessHandle& target, absl::string_view comm,
                               const std::vector<std::string>& found, bool allow_unsupported,
                               pb::Image* image) {
  if (found.empty()) return absl::OkStatus();
  if (!allow_unsupported) {
    return absl::UnimplementedError(absl::StrCat("pid ", target.pid(), " (", comm,
                                                 ") cannot be restored: ",
                                                 absl::StrJoin(found, "; ")));
  }
  for (const std::string& what : found) {
    image->add_warnings(absl::StrCat("not restored: ", what));
  }
  return absl::OkStatus();
}

}  // namespace incr
