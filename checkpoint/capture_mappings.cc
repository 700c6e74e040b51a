// CaptureMappings of capture_process.h: what each mapping is, and which file or object is
// behind it. May run after the thaw: `map` is the moment's truth; files are looked up by
// path and must still be the ones that the map names.
#include <linux/limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "checkpoint/capture_process.h"
#include "checkpoint/file_identity.h"
#include "checkpoint/text.h"
#include "checkpoint/vdso_hash.h"

namespace incr {
namespace {

std::string RangeName(const MemoryMapping& mapping) {
  return absl::StrFormat("%x-%x", mapping.start, mapping.end);
}

// MADV_* for a VmFlags pair, where madvise() brings the flag back.
constexpr std::pair<const char*, uint32_t> kAdviceOfFlag[] = {
    {"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM},     {"dc", MADV_DONTFORK},
    {"dd", MADV_DONTDUMP},   {"wf", MADV_WIPEONFORK}, {"hg", MADV_HUGEPAGE},
    {"nh", MADV_NOHUGEPAGE}, {"mg", MADV_MERGEABLE},
};

// File times come from a clock that may lag by a tick.
constexpr int64_t kClockTickUs = 10'000;

// By its change time, which nobody can set.
bool ChangedSince(const std::string& path, int64_t moment_us) {
  struct stat now{};
  return ::stat(path.c_str(), &now) == 0 &&
         now.st_ctim.tv_sec * 1'000'000LL + now.st_ctim.tv_nsec / 1000 >= moment_us;
}

absl::Status ChangedMeanwhile(const MemoryMapping& mapping) {
  return absl::AbortedError(absl::StrCat("mapping ", RangeName(mapping), ": ", mapping.name,
                                         " was changed during the checkpoint"));
}

// The name that the file had; maps says when it has been deleted.
std::string FormerName(const MemoryMapping& mapping) {
  return std::string(absl::StripSuffix(mapping.name, " (deleted)"));
}

class Capture {
 public:
  Capture(const ProcessHandle& target, int64_t moment_us, bool deleted_files, pb::Image* image)
      : target_(target), moment_us_(moment_us), deleted_files_(deleted_files), image_(image) {}

  absl::Status Describe(const MemoryMapping& mapping, const MemoryMapping* flags,
                        pb::Mapping* saved);
  absl::Status HashVdso(const MemoryMap& map, pb::Machine* machine);

 private:
  absl::Status DescribeFile(const MemoryMapping& mapping, pb::FileIdentity* identity);
  absl::Status DescribeDeletedFile(const MemoryMapping& mapping, pb::FileIdentity* identity);
  void DescribeObject(const MemoryMapping& mapping, pb::Mapping* saved);
  std::string MapFilesLink(const MemoryMapping& mapping) const {
    return target_.ProcPath(absl::StrFormat("map_files/%x-%x", mapping.start, mapping.end));
  }

  const ProcessHandle& target_;
  const int64_t moment_us_;
  const bool deleted_files_;
  pb::Image* image_;
  std::map<std::tuple<std::string, uint64_t, uint64_t>, pb::FileIdentity> files_;
  std::map<std::pair<uint64_t, uint64_t>, pb::MemoryObject*> objects_;  // by (dev, ino)
};

absl::Status Capture::DescribeFile(const MemoryMapping& mapping, pb::FileIdentity* identity) {
  const uint64_t dev = makedev(mapping.dev_major, mapping.dev_minor);
  const auto key = std::make_tuple(mapping.name, dev, mapping.inode);
  if (auto known = files_.find(key); known != files_.end()) {
    *identity = known->second;
    return absl::OkStatus();
  }
  pb::FileIdentity named, mapped;
  bool same = false;
  if (IdentityAt(mapping.name, mapping.name, &named)) {
    same = named.ino() == mapping.inode && named.dev() == dev;
    // maps shows the superblock's device; on btrfs and overlayfs stat shows another one.
    // The link below map_files answers as stat does, but only while the mapping is there.
    same = same || (IdentityAt(MapFilesLink(mapping), mapping.name, &mapped) &&
                    SameFile(named, mapped));
  }
  if (!same && deleted_files_ && !mapping.shared) {
    INCR_RETURN_IF_ERROR(DescribeDeletedFile(mapping, identity));
    files_[key] = *identity;
    return absl::OkStatus();
  }
  if (!same) {
    return absl::UnimplementedError(
        absl::StrCat("mapping ", RangeName(mapping), " of ", mapping.name,
                     ": the file has been deleted or replaced since it was mapped"));
  }
  // Pages that the process has not written are the file's, and not in the store.
  if (!mapping.shared && ChangedSince(mapping.name, moment_us_ - kClockTickUs)) {
    return ChangedMeanwhile(mapping);
  }
  files_[key] = named;
  *identity = std::move(named);
  return absl::OkStatus();
}

// Only the mapping leads to it.
absl::Status Capture::DescribeDeletedFile(const MemoryMapping& mapping,
                                          pb::FileIdentity* identity) {
  const std::string link = MapFilesLink(mapping);
  if (!IdentityAt(link, FormerName(mapping), identity) ||
      ChangedSince(link, moment_us_ - kClockTickUs)) {
    return ChangedMeanwhile(mapping);
  }
  return absl::OkStatus();
}

void Capture::DescribeObject(const MemoryMapping& mapping, pb::Mapping* saved) {
  const uint64_t dev = makedev(mapping.dev_major, mapping.dev_minor);
  pb::MemoryObject*& object = objects_[{dev, mapping.inode}];
  if (object == nullptr) {
    object = image_->add_memory_objects();
    object->set_id(image_->memory_objects_size());
    object->set_kind(pb::MemoryObject::SHARED_ANONYMOUS);
    object->set_dev(dev);
    object->set_ino(mapping.inode);
    struct stat mapped;
    if (::stat(MapFilesLink(mapping).c_str(), &mapped) == 0 && mapped.st_ino == mapping.inode) {
      object->set_size(mapped.st_size);
    }
  }
  const uint64_t reach = mapping.offset + (mapping.end - mapping.start);
  if (object->size() < reach) object->set_size(reach);
  saved->set_memory_object(object->id());
}

pb::Mapping::Kind KindOf(const MemoryMapping& mapping) {
  if (mapping.name == "[vsyscall]") return pb::Mapping::VSYSCALL;
  if (mapping.name == "[vdso]") return pb::Mapping::VDSO;
  if (absl::StartsWith(mapping.name, "[vvar")) return pb::Mapping::VVAR;
  if (IsSharedAnonymous(mapping)) return pb::Mapping::SHARED_OBJECT;
  // A private mapping of /dev/zero is anonymous memory that keeps a file's name.
  if (!mapping.is_file() || (!mapping.shared && mapping.name == "/dev/zero")) {
    return pb::Mapping::ANONYMOUS;
  }
  return mapping.shared ? pb::Mapping::SHARED_FILE : pb::Mapping::PRIVATE_FILE;
}

absl::Status Capture::Describe(const MemoryMapping& mapping, const MemoryMapping* flags,
                               pb::Mapping* saved) {
  saved->set_start(mapping.start);
  saved->set_end(mapping.end);
  saved->set_prot(mapping.prot);
  saved->set_kind(KindOf(mapping));
  if (mapping.name[0] == '[') saved->set_name(PrintableUtf8(mapping.name));
  switch (saved->kind()) {
    case pb::Mapping::PRIVATE_FILE:
    case pb::Mapping::SHARED_FILE:
      saved->set_offset(mapping.offset);
      INCR_RETURN_IF_ERROR(DescribeFile(mapping, saved->mutable_file()));
      break;
    case pb::Mapping::SHARED_OBJECT:
      saved->set_offset(mapping.offset);
      DescribeObject(mapping, saved);
      break;
    default:
      break;
  }
  saved->set_may_write(mapping.shared && (mapping.prot & PROT_WRITE) != 0);
  saved->set_grows_down(mapping.name == "[stack]");
  if (flags == nullptr) return absl::OkStatus();
  saved->set_may_write(mapping.shared && flags->HasFlag("mw"));
  saved->set_grows_down(flags->HasFlag("gd"));
  saved->set_no_reserve(flags->HasFlag("nr"));
  saved->set_locked(flags->HasFlag("lo"));
  if (saved->kind() == pb::Mapping::VDSO || saved->kind() == pb::Mapping::VVAR ||
      saved->kind() == pb::Mapping::VSYSCALL) {
    return absl::OkStatus();  // "dd", "dc" are the kernel's own there.
  }
  for (const auto& [flag, advice] : kAdviceOfFlag) {
    if (flags->HasFlag(flag)) saved->add_advice(advice);
  }
  return absl::OkStatus();
}

absl::Status Capture::HashVdso(const MemoryMap& map, pb::Machine* machine) {
  for (const MemoryMapping& mapping : map) {
    if (mapping.name != "[vdso]") continue;
    INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(target_, /*writable=*/false));
    std::string bytes(mapping.end - mapping.start, '\0');
    INCR_RETURN_IF_ERROR(
        memory.Read(RemoteAddr(mapping.start), bytes.data(), bytes.size()));
    machine->set_vdso_hash(VdsoHash(bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CaptureMappings(const ProcessHandle& target, const MemoryMap& map,
                             const MemoryMap& flags, int64_t moment_us, bool allow_unsupported,
                             pb::Process* process, pb::Image* image, bool deleted_files) {
  std::map<std::pair<uint64_t, uint64_t>, const MemoryMapping*> flags_of;
  for (const MemoryMapping& mapping : flags) {
    if (mapping.has_vm_flags) flags_of[{mapping.start, mapping.end}] = &mapping;
  }
  Capture capture(target, moment_us, deleted_files, image);
  std::vector<std::string> unsupported;
  for (const MemoryMapping& mapping : map) {
    const auto found = flags_of.find({mapping.start, mapping.end});
    const MemoryMapping* with_flags = found == flags_of.end() ? nullptr : found->second;
    MemoryMapping checked = with_flags != nullptr ? *with_flags : mapping;
    if (deleted_files && !mapping.shared) checked.name = FormerName(mapping);
    absl::Status status = CheckMappingSupported(checked);
    pb::Mapping saved;
    if (status.ok()) status = capture.Describe(mapping, with_flags, &saved);
    if (status.ok()) {
      *process->add_mappings() = std::move(saved);
    } else if (absl::IsUnimplemented(status) || absl::IsFailedPrecondition(status)) {
      unsupported.push_back(PrintableUtf8(status.message()));
    } else {
      return status;
    }
  }
  if (!unsupported.empty() && !allow_unsupported) {
    return absl::UnimplementedError(absl::StrCat("pid ", target.pid(), " cannot be restored: ",
                                                 absl::StrJoin(unsupported, "; ")));
  }
  for (const std::string& what : unsupported) {
    image->add_warnings(absl::StrCat("not restored: ", what));
  }
  return capture.HashVdso(map, image->mutable_machine());
}

}  // namespace incr
