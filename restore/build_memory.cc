#include "restore/build_memory.h"

#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "process/memory_map.h"

namespace incr {
namespace {

std::string RangeName(const AddressRange& range) {
  return absl::StrFormat("%x-%x", range.start, range.end);
}

// ---- The vdso ----

// The kernel's own mappings in the child, by address: [vvar]s, then [vdso], adjacent.
struct VdsoShape {
  std::vector<AddressRange> vvars;
  AddressRange vdso;
  bool present() const { return vdso.size() != 0; }
  AddressRange span() const {
    return {vvars.empty() ? vdso.start : std::min(vvars.front().start, vdso.start),
            vvars.empty() ? vdso.end : std::max(vvars.back().end, vdso.end)};
  }
};

absl::StatusOr<VdsoShape> FindVdso(const ProcessHandle& child) {
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(child));
  VdsoShape shape;
  for (const MemoryMapping& mapping : map) {
    const AddressRange range{mapping.start, mapping.end};
    if (mapping.name == "[vdso]") shape.vdso = range;
    if (absl::StartsWith(mapping.name, "[vvar")) shape.vvars.push_back(range);
  }
  return shape;
}

VdsoShape Moved(VdsoShape shape, uint64_t to) {
  const uint64_t delta = to - shape.span().start;
  for (AddressRange& range : shape.vvars) range = {range.start + delta, range.end + delta};
  shape.vdso = {shape.vdso.start + delta, shape.vdso.end + delta};
  return shape;
}

bool Same(const VdsoShape& a, const VdsoShape& b) { return a.vvars == b.vvars && a.vdso == b.vdso; }

absl::Status MoveRange(RemoteSyscalls& leader, const AddressRange& from, const AddressRange& to) {
  return leader
      .Call(absl::StrCat("mremap(", RangeName(from), " to ", RangeName(to), ")"), SYS_mremap,
            from.start, from.size(), from.size(), MREMAP_MAYMOVE | MREMAP_FIXED, to.start)
      .status();
}

// Some kernels move the data pages along with the code by themselves; so after each part
// the maps say what is left to move.
absl::Status MoveVdso(Workbench& bench, const VdsoShape& from, const VdsoShape& to) {
  for (size_t i = 0; i <= from.vvars.size(); ++i) {
    INCR_ASSIGN_OR_RETURN(VdsoShape now, FindVdso(bench.child()));
    if (Same(now, to)) return absl::OkStatus();
    const bool is_code = i == from.vvars.size();
    const AddressRange& source = is_code ? from.vdso : from.vvars[i];
    const AddressRange& target = is_code ? to.vdso : to.vvars[i];
    const bool there = is_code ? now.vdso == target
                               : std::find(now.vvars.begin(), now.vvars.end(), target) !=
                                     now.vvars.end();
    if (!there) INCR_RETURN_IF_ERROR(MoveRange(bench.leader(), source, target));
  }
  INCR_ASSIGN_OR_RETURN(VdsoShape now, FindVdso(bench.child()));
  if (Same(now, to)) return absl::OkStatus();
  return absl::InternalError("the vdso is not where it was moved to");
}

absl::Status UnmapAllBut(Workbench& bench, const std::vector<AddressRange>& keep) {
  for (const AddressRange& gap : Complement(keep)) {
    INCR_RETURN_IF_ERROR(bench.leader()
                             .Call(absl::StrCat("munmap(", RangeName(gap), ")"), SYS_munmap,
                                   gap.start, gap.size())
                             .status());
  }
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(bench.child()));
  for (const MemoryMapping& mapping : map) {
    bool kept = mapping.name == "[vsyscall]";
    for (const AddressRange& range : keep) {
      kept |= mapping.start >= range.start && mapping.end <= range.end;
    }
    if (!kept) {
      return absl::InternalError(absl::StrCat("our own mapping ", mapping.name,
                                              " cannot be unmapped in the new process"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReplaceAddressSpace(Workbench& bench, const RestorePlan& plan) {
  VdsoShape wanted{plan.vvars, plan.vdso};
  INCR_ASSIGN_OR_RETURN(VdsoShape inherited, FindVdso(bench.child()));
  if (!wanted.present()) return UnmapAllBut(bench, {bench.range()});
  if (!inherited.present() || !Same(Moved(inherited, wanted.span().start), wanted)) {
    return absl::FailedPreconditionError(
        "the epoch was taken on another kernel: its vdso has another shape");
  }
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(bench.child()));
  std::vector<AddressRange> taken = plan.occupied;
  for (const MemoryMapping& mapping : map) taken.push_back({mapping.start, mapping.end});
  INCR_ASSIGN_OR_RETURN(AddressRange park, FindFreeRange(std::move(taken), wanted.span().size()));
  const VdsoShape parked = Moved(inherited, park.start);
  INCR_RETURN_IF_ERROR(MoveVdso(bench, inherited, parked));
  INCR_RETURN_IF_ERROR(UnmapAllBut(bench, {bench.range(), park}));
  return MoveVdso(bench, parked, wanted);
}

absl::Status MapAll(Workbench& bench, const RestorePlan& plan, const OpenSources& sources) {
  for (const PlannedMap& map : plan.maps) {
    const int fd = map.source < 0 ? -1 : sources.fds[map.source].get();
    std::string what = absl::StrCat("mmap(", RangeName(map.range), ")");
    if (map.source >= 0 && plan.sources[map.source].kind == PlannedSource::kFile) {
      what = absl::StrCat("mmap(", RangeName(map.range), " of ",
                          plan.sources[map.source].file.path(), ")");
    }
    INCR_ASSIGN_OR_RETURN(uint64_t at,
                          bench.leader().Call(what, SYS_mmap, map.range.start, map.range.size(),
                                              map.prot, map.flags, fd, map.offset));
    if (at != map.range.start) {
      return absl::InternalError(absl::StrFormat("%s landed at %x", what, at));
    }
  }
  return absl::OkStatus();
}

absl::Status FinishMappings(Workbench& bench, const RestorePlan& plan, pb::Image* image) {
  RemoteSyscalls& leader = bench.leader();
  for (const PlannedProtect& step : plan.protects) {
    INCR_RETURN_IF_ERROR(leader
                             .Call(absl::StrCat("mprotect(", RangeName(step.range), ")"),
                                   SYS_mprotect, step.range.start, step.range.size(), step.prot)
                             .status());
  }
  for (const PlannedAdvice& step : plan.advice) {
    INCR_ASSIGN_OR_RETURN(int64_t answer,
                          leader.Raw(SYS_madvise, {step.range.start, step.range.size(),
                                                   static_cast<uint64_t>(step.advice)}));
    if (answer == 0) continue;
    image->add_warnings(absl::StrCat("mapping ", RangeName(step.range), ": madvise(", step.advice,
                                     ") is not restored: ", strerror(static_cast<int>(-answer))));
  }
  for (const PlannedName& step : plan.names) {
    if (step.name.size() >= 80) continue;  // ANON_VMA_NAME_MAX_LEN: no kernel gave it such a name.
    INCR_RETURN_IF_ERROR(bench.Put(step.name.c_str(), step.name.size() + 1));
    // A name is for people; a kernel without CONFIG_ANON_VMA_NAME says EINVAL.
    INCR_RETURN_IF_ERROR(leader
                             .Raw(SYS_prctl, {PR_SET_VMA, PR_SET_VMA_ANON_NAME, step.range.start,
                                              step.range.size(), bench.arguments().value()})
                             .status());
  }
  for (const AddressRange& range : plan.locks) {
    // MLOCK_ONFAULT: what was resident is in place already; populating the rest would let a
    // hostile image lock any amount of memory.
    INCR_ASSIGN_OR_RETURN(int64_t answer, leader.Raw(SYS_mlock2, {range.start, range.size(),
                                                                  MLOCK_ONFAULT}));
    if (answer == 0) continue;
    image->add_warnings(absl::StrCat("mapping ", RangeName(range), " is no longer locked: ",
                                     strerror(static_cast<int>(-answer))));
  }
  return absl::OkStatus();
}

absl::Status SetLayout(Workbench& bench, const pb::MemoryLayout& layout, int exe_fd) {
  std::string bytes(sizeof(prctl_mm_map), '\0');
  bytes += layout.auxv();
  prctl_mm_map map{};
  map.start_code = layout.start_code();
  map.end_code = layout.end_code();
  map.start_data = layout.start_data();
  map.end_data = layout.end_data();
  map.start_brk = layout.start_brk();
  map.brk = layout.brk();
  map.start_stack = layout.start_stack();
  map.arg_start = layout.arg_start();
  map.arg_end = layout.arg_end();
  map.env_start = layout.env_start();
  map.env_end = layout.env_end();
  if (!layout.auxv().empty()) {
    map.auxv = reinterpret_cast<__u64*>(bench.arguments().value() + sizeof map);
    map.auxv_size = layout.auxv().size();
  }
  map.exe_fd = exe_fd;
  memcpy(bytes.data(), &map, sizeof map);
  INCR_RETURN_IF_ERROR(bench.Put(bytes));
  return bench.leader()
      .Call("prctl(PR_SET_MM_MAP)", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP,
            bench.arguments().value(), sizeof map, 0)
      .status();
}

}  // namespace incr
