#include "dump/epoch_memory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/status.h"
#include "checkpoint/vdso_hash.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "proto/image_check.h"
#include "store/page_delta.h"

namespace incr {
namespace {

constexpr uint64_t kPartBytes = 4u << 20;

bool IsFile(const pb::Mapping& mapping) {
  return mapping.kind() == pb::Mapping::PRIVATE_FILE || mapping.kind() == pb::Mapping::SHARED_FILE;
}

std::string OwnVdso() {
  const absl::StatusOr<ProcessHandle> self = ProcessHandle::Open(::getpid());
  if (!self.ok()) return "";
  const absl::StatusOr<MemoryMap> map = ReadMaps(*self);
  if (!map.ok()) return "";
  for (const MemoryMapping& mapping : *map) {
    if (mapping.name != "[vdso]") continue;
    return std::string(reinterpret_cast<const char*>(mapping.start), mapping.end - mapping.start);
  }
  return "";
}

// The entries of `space` in [first, end).
std::pair<PageTable::const_iterator, PageTable::const_iterator> Entries(const PageTable& table, uint32_t space,
                                                                        uint64_t first, uint64_t end) {
  const auto before = [](const PageTableEntry& entry, const std::pair<uint32_t, uint64_t>& key) {
    return std::make_pair(entry.space, entry.page) < key;
  };
  return {std::lower_bound(table.begin(), table.end(), std::make_pair(space, first), before),
          std::lower_bound(table.begin(), table.end(), std::make_pair(space, end), before)};
}

// Neighbours from the same place become one run.
void Append(MemoryRun run, std::vector<MemoryRun>* runs) {
  if (run.start == run.end) return;
  if (!runs->empty() && runs->back().end == run.start && runs->back().from == run.from &&
      runs->back().why == run.why) {
    runs->back().end = run.end;
  } else {
    runs->push_back(std::move(run));
  }
}

}  // namespace

absl::StatusOr<EpochMemory> EpochMemory::Open(const StoreReader& store, const std::string& job, uint64_t epoch) {
  EpochMemory memory(&store);
  INCR_ASSIGN_OR_RETURN(const std::string bytes, store.ReadImage(job, epoch));
  absl::StatusOr<pb::Image> image = ParseImage(bytes);
  if (!image.ok() || image->processes_size() == 0) {
    return absl::DataLossError(absl::StrCat("the image of epoch ", epoch, " of job ", job, ": ",
                                            image.ok() ? "no process" : image.status().message()));
  }
  memory.image_ = *std::move(image);
  INCR_ASSIGN_OR_RETURN(memory.table_, store.LoadPageTable(job, epoch));
  memory.vdso_ = OwnVdso();
  if (VdsoHash(memory.vdso_) != memory.image_.machine().vdso_hash()) memory.vdso_.clear();
  for (const pb::Mapping& mapping : memory.process().mappings()) {
    if (!IsFile(mapping) || memory.files_.count(mapping.file().path()) != 0) continue;
    memory.files_.emplace(mapping.file().path(), OpenNow(mapping.file().path()));
  }
  return memory;
}

EpochMemory::File EpochMemory::OpenNow(const std::string& path) {
  File file;
  // O_NONBLOCK: a FIFO that has taken its place would wait for a writer.
  file.fd = ScopedFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd.ok() && ::fstat(file.fd.get(), &file.now) != 0) file.fd.reset();
  return file;
}

std::string EpochMemory::WhyNotTheFile(const pb::FileIdentity& was) const {
  const File& file = files_.at(was.path());
  if (!file.fd.ok()) return absl::StrCat("its file ", was.path(), " cannot be opened");
  const struct stat& now = file.now;
  if (now.st_dev == was.dev() && now.st_ino == was.ino() && static_cast<uint64_t>(now.st_size) == was.size() &&
      now.st_mtim.tv_sec * 1'000'000'000LL + now.st_mtim.tv_nsec == was.mtime_ns()) {
    return "";
  }
  return absl::StrCat("its file ", was.path(), " is another one by now, or has changed");
}

// Of a page that is not in the table.
MemoryRun EpochMemory::Background(const pb::Mapping& mapping) const {
  MemoryRun run{mapping.start(), mapping.end(), MemoryRun::From::kNowhere, ""};
  if (mapping.excluded()) {
    run.why = "it is marked MADV_DONTDUMP and was not saved";
    return run;
  }
  switch (mapping.kind()) {
    case pb::Mapping::ANONYMOUS:
    case pb::Mapping::SHARED_OBJECT:
      run.from = MemoryRun::From::kZeros;
      break;
    case pb::Mapping::PRIVATE_FILE:
    case pb::Mapping::SHARED_FILE:
      run.why = WhyNotTheFile(mapping.file());
      if (run.why.empty()) run.from = MemoryRun::From::kFile;
      break;
    case pb::Mapping::VDSO:
      run.why = "this kernel's vdso is another one";
      if (vdso_.size() == mapping.end() - mapping.start()) {
        run.from = MemoryRun::From::kVdso;
        run.why.clear();
      }
      break;
    default:
      run.why = "it is the kernel's own";
  }
  return run;
}

std::vector<MemoryRun> EpochMemory::Runs(const pb::Mapping& mapping) const {
  const MemoryRun background = Background(mapping);
  std::vector<MemoryRun> runs;
  uint64_t at = mapping.start();
  // What lies below the process's own pages: the file's, where they were saved too.
  const auto fill = [&](uint64_t end) {
    if (mapping.file_space() != 0) {
      const uint64_t shift = mapping.offset() / kPageSize - mapping.start() / kPageSize;  // may wrap
      const auto [first, last] =
          Entries(table_, mapping.file_space(), at / kPageSize + shift, end / kPageSize + shift);
      for (auto entry = first; entry != last; ++entry) {
        const uint64_t address = (entry->page - shift) * kPageSize;
        Append({at, address, background.from, background.why}, &runs);
        Append({address, address + kPageSize,
                entry->id.is_zero_page() ? MemoryRun::From::kZeros : MemoryRun::From::kStore, ""},
               &runs);
        at = address + kPageSize;
      }
    }
    Append({at, end, background.from, background.why}, &runs);
    at = end;
  };
  const auto [first, last] =
      Entries(table_, process().space(), mapping.start() / kPageSize, mapping.end() / kPageSize);
  for (auto entry = first; entry != last; ++entry) {
    const uint64_t address = entry->page * kPageSize;
    fill(address);
    Append({address, address + kPageSize,
            entry->id.is_zero_page() ? MemoryRun::From::kZeros : MemoryRun::From::kStore, ""},
           &runs);
    at = address + kPageSize;
  }
  fill(mapping.end());
  return runs;
}

absl::Status EpochMemory::ReadStored(const pb::Mapping& mapping, uint64_t start, uint64_t end, char* to) const {
  std::vector<PageId> ids;
  size_t hint = 0, file_hint = 0;
  for (uint64_t address = start; address < end; address += kPageSize) {
    const PageTableEntry* entry = FindEntry(table_, process().space(), address / kPageSize, &hint);
    if (entry == nullptr) {
      const uint64_t of_file = (address - mapping.start() + mapping.offset()) / kPageSize;
      entry = FindEntry(table_, mapping.file_space(), of_file, &file_hint);
    }
    INCR_CHECK(entry != nullptr);
    ids.push_back(entry->id);
  }
  return store_->ReadPages(ids, [&](size_t i, const uint8_t* page) {
    std::memcpy(to + i * kPageSize, page, kPageSize);
    return absl::OkStatus();
  });
}

absl::Status EpochMemory::Read(
    const pb::Mapping& mapping, const MemoryRun& run, uint64_t start, uint64_t end,
    absl::FunctionRef<absl::Status(uint64_t address, absl::string_view bytes)> sink) const {
  INCR_CHECK(run.start <= start && end <= run.end && run.from != MemoryRun::From::kNowhere);
  if (run.from == MemoryRun::From::kZeros) return absl::OkStatus();
  if (run.from == MemoryRun::From::kVdso) {
    return sink(start, absl::string_view(vdso_).substr(start - mapping.start(), end - start));
  }
  std::string bytes;
  for (uint64_t at = start; at < end; at += bytes.size()) {
    bytes.assign(std::min(end - at, kPartBytes), '\0');
    if (run.from == MemoryRun::From::kStore) {
      INCR_RETURN_IF_ERROR(ReadStored(mapping, at, at + bytes.size(), bytes.data()));
    } else {
      // Beyond the file's end there are zeros up to the page's, and no memory behind that.
      INCR_RETURN_IF_ERROR(PreadUpTo(files_.at(mapping.file().path()).fd.get(), bytes.data(), bytes.size(),
                                     mapping.offset() + (at - mapping.start()), mapping.file().path())
                               .status());
    }
    INCR_RETURN_IF_ERROR(sink(at, bytes));
  }
  return absl::OkStatus();
}

}  // namespace incr
