#include "restore/check.h"

#include <dirent.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "process/memory_map.h"
#include "process/process_handle.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace incr {
namespace {

// XCR0: the state components that the kernel has enabled on this CPU.
uint64_t EnabledXfeatures() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

absl::StatusOr<uint64_t> OwnVdsoHash() {
  INCR_ASSIGN_OR_RETURN(ProcessHandle self, ProcessHandle::Open(::getpid()));
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(self));
  for (const MemoryMapping& mapping : map) {
    if (mapping.name == "[vdso]") {
      return XXH3_64bits(reinterpret_cast<const void*>(mapping.start), mapping.end - mapping.start);
    }
  }
  return absl::NotFoundError("this process has no vdso");
}

std::string CommandOf(uint32_t tid) {
  auto comm = ReadWholeFile(absl::StrCat("/proc/", tid, "/comm"));
  return comm.ok() ? std::string(absl::StripTrailingAsciiWhitespace(*comm)) : "?";
}

absl::Status Other(const std::string& path, absl::string_view how) {
  return absl::FailedPreconditionError(
      absl::StrCat(path, " is not the file it was when the epoch was taken: ", how));
}

}  // namespace

absl::Status CheckMachine(const pb::Machine& machine, const pb::Process& process) {
  const uint64_t missing = machine.xfeatures() & ~EnabledXfeatures();
  if (missing != 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the epoch holds CPU state that this machine does not have (xfeatures %#x of %#x)", missing,
        machine.xfeatures()));
  }
  bool has_vdso = false;
  for (const pb::Mapping& mapping : process.mappings()) {
    has_vdso |= mapping.kind() == pb::Mapping::VDSO;
  }
  if (!has_vdso) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(uint64_t own_hash, OwnVdsoHash());
  if (own_hash != machine.vdso_hash()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the epoch was taken on another kernel (", machine.kernel_release(),
                     "): its vdso differs from this one's"));
  }
  return absl::OkStatus();
}

absl::Status CheckUser(const pb::Process& process) {
  if (process.uid() == ::geteuid() && process.gid() == ::getegid()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the process belonged to user ", process.uid(), ", group ", process.gid(),
                   "; restore as that user (credentials are not restored)"));
}

absl::Status CheckIdsFree(const pb::Process& process) {
  for (const pb::Thread& thread : process.threads()) {
    // /proc/<tid> answers for threads too, although it is not listed.
    if (::access(absl::StrCat("/proc/", thread.tid()).c_str(), F_OK) != 0) continue;
    return absl::AlreadyExistsError(
        absl::StrCat(thread.tid() == process.pid() ? "pid " : "thread id ", thread.tid(),
                     " is taken by ", CommandOf(thread.tid()),
                     "; end it, or wait until its parent has reaped it"));
  }
  return absl::OkStatus();
}

absl::Status CheckFileIdentity(const pb::FileIdentity& identity, const struct statx& found,
                               bool same_content, uint64_t min_size) {
  const int64_t birth_ns = found.stx_btime.tv_sec * 1'000'000'000LL + found.stx_btime.tv_nsec;
  // File systems give a deleted file's inode number to the next one.
  const bool reborn = (found.stx_mask & STATX_BTIME) != 0 && identity.birth_ns() != 0 &&
                      birth_ns != identity.birth_ns();
  if (makedev(found.stx_dev_major, found.stx_dev_minor) != identity.dev() ||
      found.stx_ino != identity.ino() || reborn) {
    return Other(identity.path(), "it has been replaced");
  }
  const uint64_t size = found.stx_size;
  if (!same_content) {
    if (size >= min_size) return absl::OkStatus();
    return Other(identity.path(), absl::StrCat("it has shrunk from ", min_size, " to ", size, " bytes"));
  }
  const int64_t mtime_ns = found.stx_mtime.tv_sec * 1'000'000'000LL + found.stx_mtime.tv_nsec;
  if (size != identity.size() || mtime_ns != identity.mtime_ns()) {
    return Other(identity.path(), "it has been written since (other size or modification time)");
  }
  return absl::OkStatus();
}

}  // namespace incr
