#include "process/remote_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

// Below this one pread of /proc/<pid>/mem is no slower than process_vm_readv and its check.
constexpr size_t kSmall = 4096;
constexpr size_t kMaxBatchBytes = 256u << 20;  // the kernel caps one call at 2 GiB - 4 KiB
constexpr size_t kMaxSlowRead = 1u << 20;

absl::Status MemoryGone(pid_t pid) {
  return absl::NotFoundError(
      absl::StrCat("the memory of pid ", pid, " is gone: it has exited or made an exec"));
}

std::string At(const char* operation, pid_t pid, uint64_t address) {
  return absl::StrFormat("%s(pid %d, address %#x)", operation, pid, address);
}

// /proc/<pid>/mem stays with the mm it was opened on: 0 bytes once that has no user any more,
// whatever the address; EIO for a bad address. So a read of one byte tells.
bool MemoryAlive(int mem) {
  char byte;
  return pread(mem, &byte, 1, 0) != 0;
}

}  // namespace

absl::StatusOr<RemoteMemory> RemoteMemory::Open(const ProcessHandle& process, bool writable) {
  INCR_ASSIGN_OR_RETURN(ScopedFd mem, OpenFile(process.ProcPath("mem"),
                                               writable ? O_RDWR : O_RDONLY));
  // The pid may have passed to another process before the open.
  if (!process.alive()) {
    return absl::NotFoundError(absl::StrCat("pid ", process.pid(), " has exited"));
  }
  return RemoteMemory(process.pid(), std::move(mem));
}

absl::Status RemoteMemory::Read(RemoteAddr from, void* to, size_t size) const {
  size_t done = 0;
  if (size > kSmall) {
    iovec local{to, size};
    iovec remote{reinterpret_cast<void*>(from.value()), size};
    const ssize_t n = process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    // By pid, so after an exec it would read another program: then start again below, and fail.
    if (n > 0 && MemoryAlive(mem_.get())) done = n;
  }
  while (done < size) {
    const uint64_t address = from.value() + done;
    const ssize_t n = pread(mem_.get(), static_cast<char*>(to) + done, size - done,
                            static_cast<off_t>(address));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(At("read", pid_, address));
    if (n == 0) return MemoryGone(pid_);
    done += n;
  }
  return absl::OkStatus();
}

absl::Status RemoteMemory::Write(RemoteAddr to, const void* from, size_t size) const {
  size_t done = 0;
  if (size > kSmall && MemoryAlive(mem_.get())) {
    iovec local{const_cast<void*>(from), size};
    iovec remote{reinterpret_cast<void*>(to.value()), size};
    const ssize_t n = process_vm_writev(pid_, &local, 1, &remote, 1, 0);
    if (n > 0) done = n;
  }
  while (done < size) {
    const uint64_t address = to.value() + done;
    const ssize_t n = pwrite(mem_.get(), static_cast<const char*>(from) + done, size - done,
                             static_cast<off_t>(address));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(At("write", pid_, address));
    if (n == 0) return MemoryGone(pid_);
    done += n;
  }
  return absl::OkStatus();
}

// One run through /proc/<pid>/mem, which also reads PROT_NONE; what it cannot read becomes
// zeros and is named in `unreadable`.
absl::Status RemoteMemory::ReadRunSlowly(PageRange run, uint8_t* to, PageSet* unreadable) const {
  const size_t size = run.count * kPageSize;
  for (size_t done = 0; done < size;) {
    const uint64_t address = run.first * kPageSize + done;
    const ssize_t n = pread(mem_.get(), to + done, std::min(size - done, kMaxSlowRead),
                            static_cast<off_t>(address));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) return MemoryGone(pid_);
    if (n >= static_cast<ssize_t>(kPageSize)) {
      done += n - n % kPageSize;
      continue;
    }
    // EINVAL: the upper half of the address space ([vsyscall]).
    if (n < 0 && errno != EIO && errno != EFAULT && errno != EINVAL)
      return ErrnoStatus(At("read", pid_, address));
    std::memset(to + done, 0, kPageSize);
    unreadable->Add({address / kPageSize, 1});
    done += kPageSize;
  }
  return absl::OkStatus();
}

absl::Status RemoteMemory::ReadPages(const std::vector<PageRange>& ranges, uint8_t* to,
                                     PageSet* unreadable) const {
  std::vector<PageRange> batch;
  for (size_t next = 0, skip = 0; next < ranges.size();) {
    // Collect a batch: up to IOV_MAX runs, up to kMaxBatchBytes.
    batch.clear();
    uint64_t pages = 0;
    while (next < ranges.size() && batch.size() < IOV_MAX && pages < kMaxBatchBytes / kPageSize) {
      const PageRange& range = ranges[next];
      const uint64_t count =
          std::min<uint64_t>(range.count - skip, kMaxBatchBytes / kPageSize - pages);
      if (count > 0) batch.push_back({range.first + skip, count});
      pages += count;
      skip += count;
      if (skip == range.count) ++next, skip = 0;
    }
    INCR_RETURN_IF_ERROR(ReadBatch(batch, to, unreadable));
    to += pages * kPageSize;
  }
  if (!MemoryAlive(mem_.get())) return MemoryGone(pid_);  // See Read().
  return absl::OkStatus();
}

absl::Status RemoteMemory::ReadBatch(const std::vector<PageRange>& batch, uint8_t* to,
                                     PageSet* unreadable) const {
  iovec remote[IOV_MAX];
  for (size_t first = 0; first < batch.size();) {
    size_t bytes = 0;
    const size_t count = batch.size() - first;
    for (size_t i = 0; i < count; ++i) {
      const PageRange& run = batch[first + i];
      remote[i] = {reinterpret_cast<void*>(run.first * kPageSize), run.count * kPageSize};
      bytes += remote[i].iov_len;
    }
    iovec local{to, bytes};
    const ssize_t n = process_vm_readv(pid_, &local, 1, remote, count, 0);
    // Three ends: all of it; less, stopped inside the run where something is in the way;
    // nothing at all, for the same reason (or because the process is gone: the slow way tells).
    size_t left = n > 0 ? n : 0;
    while (first < batch.size() && left >= batch[first].count * kPageSize) {
      left -= batch[first].count * kPageSize;
      to += batch[first].count * kPageSize;
      ++first;
    }
    if (first == batch.size()) break;
    const uint64_t whole = left / kPageSize;
    const PageRange rest{batch[first].first + whole, batch[first].count - whole};
    INCR_RETURN_IF_ERROR(ReadRunSlowly(rest, to + whole * kPageSize, unreadable));
    to += batch[first].count * kPageSize;
    ++first;
  }
  return absl::OkStatus();
}

}  // namespace incr
