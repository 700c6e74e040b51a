#include "proto/image_check.h"

#include <climits>
#include <sched.h>
#include <cstring>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/user.h>

#include <csignal>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/page_range.h"
#include "base/status.h"

namespace incr {
namespace {

// Caps: far above what a real process has, low enough that nothing below can be
// made to allocate or loop without bound.
constexpr int kMaxMappings = 1 << 20;      // vm.max_map_count is 65530 by default
constexpr int kMaxThreads = 1 << 18;
constexpr uint32_t kMaxTid = 1 << 22;      // PID_MAX_LIMIT
constexpr uint32_t kMaxFd = 1 << 20;       // fs.nr_open's default
constexpr int kMaxPendingSignals = 1 << 18;
constexpr size_t kSiginfoBytes = 128;
constexpr size_t kXsaveMinimum = 576;      // legacy area and header
constexpr size_t kXsaveMaximum = 64 << 10;
constexpr uint64_t kMaxObjectBytes = 1ull << 46;
constexpr int kSignals = 64;

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("invalid process image: ", args...));
}

std::string Range(uint64_t start, uint64_t end) { return absl::StrFormat("%x-%x", start, end); }

bool IsUserAddress(uint64_t address) { return address < kTaskSize; }

absl::Status CheckPath(absl::string_view path, absl::string_view what) {
  if (path.empty() || path[0] != '/' || path.size() >= PATH_MAX ||
      path.find('\0') != absl::string_view::npos) {
    return Bad(what, " has an unusable path of ", path.size(), " bytes");
  }
  return absl::OkStatus();
}

absl::Status CheckKernelMapping(const pb::Mapping& m) {
  const std::string range = Range(m.start(), m.end());
  if (m.kind() == pb::Mapping::VSYSCALL) {
    if (m.start() == kVsyscallStart && m.end() == kVsyscallEnd) return absl::OkStatus();
    return Bad("vsyscall at ", range);
  }
  if (m.end() - m.start() > (1 << 20)) return Bad("vdso or vvar of a size never seen, ", range);
  return absl::OkStatus();
}

absl::Status CheckFileSpace(const pb::Mapping& m) {
  if (m.file_space() == 0) return absl::OkStatus();
  if (m.kind() == pb::Mapping::PRIVATE_FILE && m.file_space() >= kFirstFileSpace &&
      m.file_space() < kEndFileSpace) {
    return absl::OkStatus();
  }
  return Bad("mapping ", Range(m.start(), m.end()), " has file pages in space ", m.file_space());
}

absl::Status CheckMappingBacking(const pb::Mapping& m, const std::set<uint32_t>& objects) {
  const std::string range = Range(m.start(), m.end());
  switch (m.kind()) {
    case pb::Mapping::ANONYMOUS:
      return absl::OkStatus();
    case pb::Mapping::PRIVATE_FILE:
    case pb::Mapping::SHARED_FILE:
      if (m.offset() % kPageSize != 0 || m.offset() > kMaxObjectBytes) {
        return Bad("mapping ", range, " has offset ", m.offset());
      }
      return CheckPath(m.file().path(), absl::StrCat("mapping ", range));
    case pb::Mapping::SHARED_OBJECT:
      if (m.offset() % kPageSize != 0 || m.offset() > kMaxObjectBytes) {
        return Bad("mapping ", range, " has offset ", m.offset());
      }
      if (!objects.contains(m.memory_object())) {
        return Bad("mapping ", range, " is of memory object ", m.memory_object(),
                   ", which is not there");
      }
      return absl::OkStatus();
    case pb::Mapping::VDSO:
    case pb::Mapping::VVAR:
    case pb::Mapping::VSYSCALL:
      return CheckKernelMapping(m);
    default:
      return Bad("mapping ", range, " is of unknown kind ", m.kind());
  }
}

absl::Status CheckMappings(const pb::Process& process, const std::set<uint32_t>& objects) {
  if (process.mappings_size() == 0) return Bad("no mappings");
  if (process.mappings_size() > kMaxMappings) return Bad(process.mappings_size(), " mappings");
  uint64_t previous_end = 0;
  int vdsos = 0;
  for (const pb::Mapping& m : process.mappings()) {
    const std::string range = Range(m.start(), m.end());
    if (m.start() % kPageSize != 0 || m.end() % kPageSize != 0 || m.start() >= m.end()) {
      return Bad("mapping ", range, " is not a range of pages");
    }
    if (m.start() < previous_end) return Bad("mapping ", range, " overlaps or is out of order");
    if (m.start() == 0) return Bad("mapping ", range, " covers the null page");
    if (m.end() > kTaskSize && m.kind() != pb::Mapping::VSYSCALL) {
      return Bad("mapping ", range, " lies outside of user space");
    }
    if ((m.prot() & ~(PROT_READ | PROT_WRITE | PROT_EXEC)) != 0) {
      return Bad("mapping ", range, " has protection ", m.prot());
    }
    if (m.name().size() >= PATH_MAX || m.advice_size() > 64) {
      return Bad("mapping ", range, " has an oversized name or advice");
    }
    if (m.kind() == pb::Mapping::VDSO && ++vdsos > 1) return Bad("two vdso mappings");
    INCR_RETURN_IF_ERROR(CheckMappingBacking(m, objects));
    INCR_RETURN_IF_ERROR(CheckFileSpace(m));
    previous_end = m.end();
  }
  return absl::OkStatus();
}

absl::Status CheckSiginfo(const std::string& info, absl::string_view owner) {
  if (info.size() != kSiginfoBytes) {
    return Bad(owner, " has a pending signal of ", info.size(), " bytes");
  }
  int signal;
  memcpy(&signal, info.data(), sizeof signal);
  if (signal < 1 || signal > kSignals) return Bad(owner, " has pending signal ", signal);
  return absl::OkStatus();
}

absl::Status CheckRegisters(const pb::Thread& thread) {
  const std::string who = absl::StrCat("thread ", thread.tid());
  if (thread.registers().size() != sizeof(user_regs_struct)) {
    return Bad(who, " has ", thread.registers().size(), " bytes of registers");
  }
  user_regs_struct registers;
  memcpy(&registers, thread.registers().data(), sizeof registers);
  // 0x33 and 0x2b are the kernel's own 64-bit user segments; others would enter 32-bit code.
  if (registers.cs != 0x33 || registers.ss != 0x2b) {
    return Bad(who, " has code or stack segments ", registers.cs, ", ", registers.ss);
  }
  if (!IsUserAddress(registers.rip) || !IsUserAddress(registers.fs_base) ||
      !IsUserAddress(registers.gs_base)) {
    return Bad(who, " has rip, fs or gs base outside of user space");
  }
  constexpr int64_t kLastRestart = -512, kFirstRestart = -516;  // the kernel's ERESTART*
  if (thread.call_result() != 0 && (thread.call_result() < kFirstRestart || thread.call_result() > kLastRestart)) {
    return Bad(who, " was in a call that gave ", thread.call_result());
  }
  if (thread.xstate().size() < kXsaveMinimum || thread.xstate().size() > kXsaveMaximum) {
    return Bad(who, " has ", thread.xstate().size(), " bytes of extended state");
  }
  return absl::OkStatus();
}

absl::Status CheckThread(const pb::Thread& thread) {
  INCR_RETURN_IF_ERROR(CheckRegisters(thread));
  const std::string who = absl::StrCat("thread ", thread.tid());
  if (thread.comm().size() > 15 || thread.comm().find('\0') != std::string::npos) {
    return Bad(who, " has a name of ", thread.comm().size(), " bytes");
  }
  if (thread.pending_signals_size() > kMaxPendingSignals) {
    return Bad(who, " has ", thread.pending_signals_size(), " pending signals");
  }
  for (const std::string& info : thread.pending_signals()) {
    INCR_RETURN_IF_ERROR(CheckSiginfo(info, who));
  }
  // The kernel takes any address for the alternate stack, the robust list and the tid to clear.
  if (!IsUserAddress(thread.rseq())) return Bad(who, " has an rseq area outside of user space");
  if (thread.robust_list() != 0 && thread.robust_list_size() != 24) {
    return Bad(who, " has a robust list head of ", thread.robust_list_size(), " bytes");
  }
  if (thread.rseq() != 0 && (thread.rseq_size() < 20 || thread.rseq_size() > 4096)) {
    return Bad(who, " has an rseq area of ", thread.rseq_size(), " bytes");
  }
  if (thread.nice() < -20 || thread.nice() > 19) return Bad(who, " has nice ", thread.nice());
  if ((thread.sched_policy() & ~SCHED_RESET_ON_FORK) > 7 || thread.sched_priority() > 99) {
    return Bad(who, " has scheduling policy ", thread.sched_policy(), ", priority ",
               thread.sched_priority());
  }
  if (thread.cpu_affinity().size() > 8192) return Bad(who, " has an oversized affinity mask");
  if (thread.parent_death_signal() > kSignals) {
    return Bad(who, " has parent death signal ", thread.parent_death_signal());
  }
  return absl::OkStatus();
}

absl::Status CheckThreads(const pb::Process& process, std::set<uint32_t>* tids) {
  if (process.threads_size() == 0) return Bad("no threads");
  if (process.threads_size() > kMaxThreads) return Bad(process.threads_size(), " threads");
  if (process.threads(0).tid() != process.pid()) {
    return Bad("the first thread is ", process.threads(0).tid(), " and not the leader, ",
               process.pid());
  }
  for (const pb::Thread& thread : process.threads()) {
    if (thread.tid() == 0 || thread.tid() >= kMaxTid) return Bad("thread id ", thread.tid());
    if (!tids->insert(thread.tid()).second) return Bad("thread id ", thread.tid(), " twice");
    INCR_RETURN_IF_ERROR(CheckThread(thread));
  }
  return absl::OkStatus();
}

absl::Status CheckSignals(const pb::Process& process) {
  std::set<uint32_t> seen;
  for (const pb::SignalAction& action : process.signal_actions()) {
    if (action.signal() < 1 || action.signal() > kSignals || !seen.insert(action.signal()).second) {
      return Bad("signal action for signal ", action.signal());
    }
  }
  if (process.pending_signals_size() > kMaxPendingSignals) {
    return Bad(process.pending_signals_size(), " pending signals");
  }
  for (const std::string& info : process.pending_signals()) {
    INCR_RETURN_IF_ERROR(CheckSiginfo(info, "the process"));
  }
  return absl::OkStatus();
}

absl::Status CheckTimersAndLimits(const pb::Process& process) {
  for (const pb::IntervalTimer& timer : process.interval_timers()) {
    if (timer.which() > 2 || timer.value_us() < 0 || timer.interval_us() < 0) {
      return Bad("interval timer ", timer.which());
    }
  }
  for (const pb::ResourceLimit& limit : process.limits()) {
    if (limit.resource() >= RLIM_NLIMITS || limit.soft() > limit.hard()) {
      return Bad("resource limit ", limit.resource());
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLayout(const pb::MemoryLayout& layout) {
  // As the kernel's own test of PR_SET_MM_MAP.
  for (uint64_t address :
       {layout.start_code(), layout.end_code(), layout.start_data(), layout.end_data(),
        layout.start_brk(), layout.brk(), layout.start_stack(), layout.arg_start(),
        layout.arg_end(), layout.env_start(), layout.env_end()}) {
    if (address == 0 || !IsUserAddress(address)) {
      return Bad("memory layout with address ", absl::StrFormat("%x", address));
    }
  }
  if (layout.start_code() > layout.end_code() || layout.start_data() > layout.end_data() ||
      layout.start_brk() > layout.brk() || layout.arg_start() > layout.arg_end() ||
      layout.env_start() > layout.env_end()) {
    return Bad("memory layout is out of order");
  }
  if (layout.auxv().size() > 4096 || layout.auxv().size() % 16 != 0) {
    return Bad("auxiliary vector of ", layout.auxv().size(), " bytes");
  }
  return absl::OkStatus();
}

absl::Status CheckDescriptors(const pb::Process& process, const std::set<uint32_t>& open_files) {
  int64_t previous = -1;
  for (const pb::FileDescriptor& descriptor : process.descriptors()) {
    if (int64_t{descriptor.fd()} <= previous || descriptor.fd() >= kMaxFd) {
      return Bad("descriptor ", descriptor.fd(), " is out of order or too large");
    }
    if (!open_files.contains(descriptor.open_file())) {
      return Bad("descriptor ", descriptor.fd(), " is of open file ", descriptor.open_file(),
                 ", which is not there");
    }
    previous = descriptor.fd();
  }
  return absl::OkStatus();
}

absl::Status CheckProcess(const pb::Process& process, const std::set<uint32_t>& objects,
                          const std::set<uint32_t>& open_files, std::set<uint32_t>* tids) {
  if (process.pid() == 0 || process.pid() >= kMaxTid) return Bad("pid ", process.pid());
  if (process.space() >= kFirstFileSpace) return Bad("process in space ", process.space());
  INCR_RETURN_IF_ERROR(CheckPath(process.exe().path(), "the program"));
  if (!process.cwd().empty()) {
    INCR_RETURN_IF_ERROR(CheckPath(process.cwd(), "the working directory"));
  }
  if (!process.root().empty()) {
    INCR_RETURN_IF_ERROR(CheckPath(process.root(), "the root directory"));
  }
  if (process.umask() > 0777) return Bad("umask ", process.umask());
  INCR_RETURN_IF_ERROR(CheckThreads(process, tids));
  INCR_RETURN_IF_ERROR(CheckMappings(process, objects));
  INCR_RETURN_IF_ERROR(CheckSignals(process));
  INCR_RETURN_IF_ERROR(CheckTimersAndLimits(process));
  INCR_RETURN_IF_ERROR(CheckLayout(process.layout()));
  return CheckDescriptors(process, open_files);
}

absl::Status CollectObjects(const pb::Image& image, std::set<uint32_t>* ids) {
  for (const pb::MemoryObject& object : image.memory_objects()) {
    if (object.id() == 0 || !ids->insert(object.id()).second) {
      return Bad("memory object ", object.id(), " twice or without a number");
    }
    if (object.kind() != pb::MemoryObject::SHARED_ANONYMOUS || object.size() == 0 ||
        object.size() > kMaxObjectBytes) {
      return Bad("memory object ", object.id(), " of kind ", object.kind(), " and ",
                 object.size(), " bytes");
    }
  }
  return absl::OkStatus();
}

absl::Status CollectOpenFiles(const pb::Image& image, std::set<uint32_t>* ids) {
  for (const pb::OpenFile& file : image.open_files()) {
    if (file.id() == 0 || !ids->insert(file.id()).second) {
      return Bad("open file ", file.id(), " twice or without a number");
    }
    if (!file.file().path().empty()) {
      INCR_RETURN_IF_ERROR(CheckPath(file.file().path(), absl::StrCat("open file ", file.id())));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateImage(const pb::Image& image) {
  if (image.version() != kImageVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("process image of version ", image.version(), "; this program reads version ",
                     kImageVersion));
  }
  if (image.processes_size() == 0) return Bad("no process");
  std::set<uint32_t> objects, open_files, tids;
  INCR_RETURN_IF_ERROR(CollectObjects(image, &objects));
  INCR_RETURN_IF_ERROR(CollectOpenFiles(image, &open_files));
  for (const pb::Process& process : image.processes()) {
    INCR_RETURN_IF_ERROR(CheckProcess(process, objects, open_files, &tids));
  }
  return absl::OkStatus();
}

absl::StatusOr<pb::Image> ParseImage(absl::string_view bytes) {
  if (bytes.size() > kMaxImageBytes) return Bad(bytes.size(), " bytes long");
  pb::Image image;
  if (!image.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Bad("not a message of this schema");
  }
  INCR_RETURN_IF_ERROR(ValidateImage(image));
  return image;
}

}  // namespace incr
