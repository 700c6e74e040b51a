#include "process/tracking_probes.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/signals_blocked.h"
#include "base/status.h"
#include "process/kernel_abi.h"
#include "process/userfaultfd.h"

namespace incr {
namespace {

constexpr uint64_t kWpAsyncFeatures = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
constexpr size_t kHugePage = 2u << 20;

// Anonymous memory of this process, unmapped at the end.
class ProbeMemory {
 public:
  explicit ProbeMemory(size_t bytes) : bytes_(bytes) {
    void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) start_ = static_cast<volatile char*>(p);
  }
  ProbeMemory(const ProbeMemory&) = delete;
  ProbeMemory& operator=(const ProbeMemory&) = delete;
  ~ProbeMemory() {
    if (start_ != nullptr) ::munmap(address(), bytes_);
  }
  bool ok() const { return start_ != nullptr; }
  void Forget() { start_ = nullptr; }  // It has been moved away.
  volatile char* start() const { return start_; }
  void* address() const { return const_cast<char*>(start_); }
  PageRange pages() const {
    return {reinterpret_cast<uint64_t>(address()) / kPageSize, bytes_ / kPageSize};
  }

 private:
  volatile char* start_ = nullptr;
  size_t bytes_;
};

// PAGEMAP_SCAN of our own first matching region. Plain calls: ProcessHandle would be a detour.
class OwnPagemap {
 public:
  OwnPagemap() { fd_.reset(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)); }
  bool ok() const { return fd_.ok(); }

  // Pages of `range` that match, at most one region's worth; -errno on failure.
  int64_t Scan(PageRange range, uint64_t all_of, uint64_t inverted, bool protect) const {
    page_region region{};
    pm_scan_arg arg{};
    arg.size = sizeof arg;
    arg.flags = protect ? PM_SCAN_WP_MATCHING : 0;
    arg.start = range.first * kPageSize;
    arg.end = range.end() * kPageSize;
    arg.vec = reinterpret_cast<uintptr_t>(&region);
    arg.vec_len = 1;
    arg.category_inverted = inverted;
    arg.category_mask = all_of;
    arg.category_anyof_mask = protect ? PAGE_IS_PRESENT | PAGE_IS_SWAPPED : 0;
    arg.return_mask = all_of;
    const int count = ::ioctl(fd_.get(), PAGEMAP_SCAN, &arg);
    if (count < 0) return -errno;
    return count == 0 ? 0 : static_cast<int64_t>((region.end - region.start) / kPageSize);
  }

  void ReadInto(volatile char* to) const {
    (void)!::pread(fd_.get(), const_cast<char*>(to), sizeof(uint64_t), 0);
  }

  absl::StatusOr<uint64_t> Entry(const volatile void* address) const {
    uint64_t entry = 0;
    const uint64_t page = reinterpret_cast<uint64_t>(address) / kPageSize;
    INCR_RETURN_IF_ERROR(PreadExactly(fd_.get(), &entry, sizeof entry, page * sizeof entry,
                                      "/proc/self/pagemap"));
    return entry;
  }

 private:
  ScopedFd fd_;
};

std::string ErrnoText(int64_t result) { return std::strerror(static_cast<int>(-result)); }

Feature Works(Feature feature, std::string detail) {
  feature.works = true;
  feature.detail = std::move(detail);
  return feature;
}

Feature Fails(Feature feature, std::string detail) {
  feature.works = false;
  feature.detail = std::move(detail);
  return feature;
}

Feature Named(const char* name, const char* used_for) { return {name, false, "", used_for}; }

// A registered and armed piece of memory.
struct Armed {
  ScopedFd uffd;
  OwnPagemap pagemap;
};
absl::StatusOr<Armed> ArmMemory(const ProbeMemory& memory) {
  if (!memory.ok()) return absl::ResourceExhaustedError("no memory to try it on");
  Armed armed;
  if (!armed.pagemap.ok()) return absl::UnavailableError("/proc/self/pagemap cannot be opened");
  INCR_ASSIGN_OR_RETURN(armed.uffd, NewUserModeUserfaultfd(kWpAsyncFeatures));
  INCR_RETURN_IF_ERROR(RegisterWriteProtect(armed.uffd.get(), memory.pages()));
  for (int64_t n = 1; n != 0;) {  // One region at a time, and armed ones match no more.
    n = armed.pagemap.Scan(memory.pages(), PAGE_IS_WRITTEN, 0, /*protect=*/true);
    if (n < 0) return ErrnoStatus(static_cast<int>(-n), "PAGEMAP_SCAN with PM_SCAN_WP_MATCHING");
  }
  return armed;
}

}  // namespace

Feature ProbeUserfaultfd() {
  Feature feature = Named("uffd", "dirty tracking and lazy restore");
  auto uffd = NewUserfaultfd(0);
  if (!uffd.ok()) return Fails(std::move(feature), std::string(uffd.status().message()));
  return Works(std::move(feature), "userfaultfd can be created, kernel-mode faults included");
}

Feature ProbePagemapScan() {
  Feature feature = Named("pagemap_scan", "reading which pages were written, and re-arming them");
  const ProbeMemory memory(2 * kPageSize);
  const OwnPagemap pagemap;
  if (!memory.ok() || !pagemap.ok()) return Fails(feature, "/proc/self/pagemap cannot be opened");
  memory.start()[0] = 1;
  const int64_t n = pagemap.Scan(memory.pages(), PAGE_IS_PRESENT, 0, false);
  if (n < 0) return Fails(feature, absl::StrCat("ioctl: ", ErrnoText(n), " (needs Linux 6.7)"));
  if (n != 1) return Fails(feature, absl::StrCat("1 page was written, ", n, " were reported"));
  return Works(feature, "finds the page that is there");
}

Feature ProbeUffdWpAsync() {
  Feature feature = Named("uffd_wp_async", "the tracker uffd-wp-async");
  const ProbeMemory memory(4 * kPageSize);
  if (memory.ok()) {
    memory.start()[0] = 1;
    memory.start()[kPageSize] = 1;
  }
  auto armed = ArmMemory(memory);
  if (!armed.ok()) return Fails(feature, std::string(armed.status().message()));
  const auto written = [&] {
    return armed->pagemap.Scan(memory.pages(), PAGE_IS_WRITTEN, 0, /*protect=*/true);
  };
  if (written() != 0) return Fails(feature, "armed pages read as written");
  memory.start()[kPageSize] = 2;
  if (written() != 1) return Fails(feature, "a write to an armed page was not reported");
  memory.start()[2 * kPageSize] = 2;
  if (written() != 1) return Fails(feature, "a write to an empty page was not reported");
  // The kernel's own, as of every read(2): an unprivileged userfaultfd might let it out.
  armed->pagemap.ReadInto(memory.start());
  if (written() != 1) return Fails(feature, "a write by the kernel was not reported");
  return Works(feature, "writes to armed and to empty pages are reported once");
}

namespace {

// A thread that writes to a page, and waits in that until it is served. No signal is handled there.
class Writer {
 public:
  explicit Writer(volatile char* byte) {
    const AllSignalsBlocked for_the_thread;
    started_ = ::pthread_create(&thread_, nullptr, &Write, const_cast<char*>(byte)) == 0;
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  // Someone has served it, or closed the userfaultfd.
  ~Writer() {
    if (started_) ::pthread_join(thread_, nullptr);
  }
  bool started() const { return started_; }

 private:
  static void* Write(void* byte) {
    *static_cast<volatile char*>(byte) = 2;
    return nullptr;
  }
  pthread_t thread_{};
  bool started_;
};

// "" when the write to the armed `page` was told of, and waited to be served.
std::string ServeOneWrite(ScopedFd uffd, volatile char* byte, uint64_t page) {
  const Writer writer(byte);  // Ends after `uffd` has: it never waits for ever.
  const ScopedFd closed_first(std::move(uffd));
  if (!writer.started()) return "no thread to try it with";
  pollfd waiting{closed_first.get(), POLLIN, 0};
  if (::poll(&waiting, 1, 2000) != 1) return "a write to an armed page was not told";
  uint64_t told = 0;
  auto count = ReadWriteFaults(closed_first.get(), &told, 1);
  if (!count.ok()) return std::string(count.status().message());
  if (*count != 1 || told != page) return "a write to an armed page was told of another one";
  if (*byte != 1) return "a write to an armed page did not wait";
  const absl::Status served = WriteProtect(closed_first.get(), {page, 1}, /*protect=*/false);
  return std::string(served.message());
}

}  // namespace

Feature ProbeUffdWp() {
  Feature feature = Named("uffd_wp", "the tracker uffd-wp");
  const ProbeMemory memory(3 * kPageSize);
  const OwnPagemap pagemap;
  if (!memory.ok() || !pagemap.ok()) return Fails(feature, "/proc/self/pagemap cannot be opened");
  memory.start()[0] = 1;
  memory.start()[kPageSize] = 1;
  auto uffd = NewUserfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  if (!uffd.ok()) return Fails(feature, std::string(uffd.status().message()));
  absl::Status armed = RegisterWriteProtect(uffd->get(), memory.pages());
  const auto has_bit = [&](size_t n) {
    const auto entry = pagemap.Entry(memory.start() + n * kPageSize);
    return entry.ok() && (*entry & kPagemapUffdWp) != 0;
  };
  const bool said_too_much = has_bit(0) || has_bit(1);
  if (armed.ok()) armed = WriteProtect(uffd->get(), memory.pages(), /*protect=*/true);
  if (!armed.ok()) return Fails(feature, std::string(armed.message()));
  if (said_too_much || !has_bit(0) || !has_bit(1)) {
    return Fails(feature, "pagemap does not show which pages are armed (needs Linux 5.13)");
  }
  auto ours = IsRegistered(uffd->get(), memory.pages().first);
  if (!ours.ok() || !*ours) return Fails(feature, "a registered mapping cannot be told from others");
  const uint64_t page = memory.pages().first + 1;
  std::string bad = ServeOneWrite(*std::move(uffd), memory.start() + kPageSize, page);
  if (!bad.empty()) return Fails(feature, bad);
  if (has_bit(1)) return Fails(feature, "a page that was written shows as armed");
  return Works(feature, "writes to armed pages wait for us and show");
}

Feature ProbeThpDontneed() {
  Feature feature = Named("thp_dontneed_reported",
                          "seeing that a whole huge page was dropped (broken in 6.7 to mid-2026)");
  const ProbeMemory memory(2 * kHugePage);
  if (!memory.ok()) return Fails(feature, "no memory to try it on");
  const uint64_t start = reinterpret_cast<uint64_t>(memory.address());
  const uint64_t huge = (start + kHugePage - 1) / kHugePage * kHugePage;
  void* const address = reinterpret_cast<void*>(huge);
  volatile char* const bytes = static_cast<volatile char*>(address);
  const PageRange pages{huge / kPageSize, kHugePage / kPageSize};
  if (::madvise(address, kHugePage, MADV_HUGEPAGE) != 0) {
    return Works(feature, "no huge pages here");
  }
  for (size_t i = 0; i < kHugePage; i += kPageSize) bytes[i] = 1;
  auto armed = ArmMemory(memory);
  if (!armed.ok()) return Fails(feature, std::string(armed.status().message()));
  const OwnPagemap& pagemap = armed->pagemap;
  const bool is_huge = pagemap.Scan(pages, PAGE_IS_HUGE, 0, false) > 0;
  if (::madvise(address, kHugePage, MADV_DONTNEED) != 0) return Fails(feature, "MADV_DONTNEED fails");
  // The tracker asks what is there, not what was written, so that either answer to
  // "written?" serves it; what it needs are these two.
  if (pagemap.Scan(pages, PAGE_IS_PRESENT, 0, false) != 0) {
    return Fails(feature, "a dropped huge page still reads as present");
  }
  bytes[0] = 2;
  if (pagemap.Scan(pages, PAGE_IS_WRITTEN | PAGE_IS_PRESENT, 0, false) <= 0) {
    return Fails(feature, "a write after the drop was not reported");
  }
  return Works(feature, is_huge ? "the drop and a write after it show"
                                : "no huge page was given to try it on");
}

Feature ProbeMremapClearsWp() {
  Feature feature = Named("mremap_clears_wp",
                          "nothing: shown because it was broken before 6.14; moved memory counts as written");
  ProbeMemory memory(kPageSize), target(kPageSize);
  if (memory.ok()) memory.start()[0] = 1;
  auto armed = ArmMemory(memory);
  if (!armed.ok()) return Fails(feature, std::string(armed.status().message()));
  if (!target.ok() || ::mremap(memory.address(), kPageSize, kPageSize,
                               MREMAP_MAYMOVE | MREMAP_FIXED, target.address()) == MAP_FAILED) {
    return Fails(feature, "mremap fails");
  }
  memory.Forget();  // Another thread may already have mapped something there.
  if (!RegisterWriteProtect(armed->uffd.get(), target.pages()).ok()) {
    return Fails(feature, "a moved page cannot be registered");
  }
  if (armed->pagemap.Scan(target.pages(), PAGE_IS_WRITTEN, 0, false) != 1) {
    return Fails(feature, "a moved page keeps its protection bit and reads as clean");
  }
  return Works(feature, "a moved page reads as written");
}

Feature ProbePagemapGuard() {
  Feature feature = Named("pagemap_guard", "passing over guard pages (6.15)");
  const ProbeMemory memory(kPageSize);
  const OwnPagemap pagemap;
  if (!memory.ok() || !pagemap.ok()) return Fails(feature, "/proc/self/pagemap cannot be opened");
  const int64_t n = pagemap.Scan(memory.pages(), PAGE_IS_GUARD, 0, false);
  if (n < 0) return Fails(feature, absl::StrCat("ioctl: ", ErrnoText(n)));
  if (::madvise(memory.address(), kPageSize, MADV_GUARD_INSTALL) != 0) {
    return Fails(feature, absl::StrCat("MADV_GUARD_INSTALL: ", std::strerror(errno)));
  }
  if (pagemap.Scan(memory.pages(), PAGE_IS_GUARD, 0, false) != 1) {
    return Fails(feature, "a guard page was not reported");
  }
  return Works(feature, "guard pages are reported");
}

// Four page tables' worth: full; never touched; full and dropped; full but for one page.
Feature ProbeWrittenReportsEmpty() {
  Feature feature = Named("written_reports_empty", "one quick scan instead of two in the freeze");
  constexpr uint64_t kTable = 512;  // pages
  const ProbeMemory memory(5 * kHugePage);
  if (!memory.ok()) return Fails(feature, "no memory to try it on");
  const uint64_t start = reinterpret_cast<uint64_t>(memory.address());
  const uint64_t first = (start + kHugePage - 1) / kHugePage * kTable;
  volatile char* const bytes = reinterpret_cast<volatile char*>(first * kPageSize);
  const auto address = [&](uint64_t page) { return const_cast<char*>(bytes + page * kPageSize); };
  for (const int advice : {MADV_NOHUGEPAGE, MADV_HUGEPAGE}) {
    if (::madvise(address(0), 4 * kHugePage, advice) != 0 && advice == MADV_HUGEPAGE) break;
    for (uint64_t page = 0; page < 4 * kTable; ++page) {
      if (page / kTable != 1) bytes[page * kPageSize] = 1;
    }
    auto armed = ArmMemory(memory);
    if (!armed.ok()) return Fails(feature, std::string(armed.status().message()));
    if (::madvise(address(2 * kTable), kHugePage, MADV_DONTNEED) != 0 ||
        ::madvise(address(3 * kTable + 7), kPageSize, MADV_DONTNEED) != 0) {
      return Fails(feature, "MADV_DONTNEED fails");
    }
    const std::pair<uint64_t, int64_t> expected[] = {
        {0, 0}, {kTable, kTable}, {2 * kTable, kTable}, {3 * kTable, 1}};
    for (const auto& [page, count] : expected) {
      const int64_t seen =
          armed->pagemap.Scan({first + page, kTable}, PAGE_IS_WRITTEN, 0, /*protect=*/false);
      if (seen < 0) return Fails(feature, absl::StrCat("ioctl: ", ErrnoText(seen)));
      if (seen != count) {
        return Fails(feature, absl::StrCat(count, " of ", kTable, " pages were empty, ", seen,
                                           " read as written"));
      }
    }
    if (::madvise(address(0), 4 * kHugePage, MADV_DONTNEED) != 0) break;
  }
  return Works(feature, "what is empty reads as written, whole page tables included");
}

Feature ProbePagemapFrames() {
  Feature feature = Named("pagemap_frames", "telling swapped pages from empty markers");
  const ProbeMemory memory(kPageSize);
  const OwnPagemap pagemap;
  if (!memory.ok() || !pagemap.ok()) return Fails(feature, "/proc/self/pagemap cannot be opened");
  memory.start()[0] = 1;
  auto entry = pagemap.Entry(memory.start());
  if (!entry.ok()) return Fails(feature, std::string(entry.status().message()));
  if ((*entry & kPagemapPresent) == 0) return Fails(feature, "a written page reads as absent");
  if ((*entry & kPagemapFrame) == 0) return Fails(feature, "hidden (needs CAP_SYS_ADMIN)");
  return Works(feature, "page frame numbers are shown");
}

Feature ProbeSoftDirty() {
  Feature feature = Named("soft_dirty", "the tracker soft-dirty");
  const ProbeMemory memory(3 * kPageSize);
  if (!memory.ok()) return Fails(feature, "no memory to try it on");
  const pid_t child = ::fork();
  if (child < 0) return Fails(feature, absl::StrCat("fork: ", std::strerror(errno)));
  if (child == 0) {  // Only async-signal-safe calls: other threads may hold locks.
    const int clear = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    memory.start()[0] = 1;
    memory.start()[kPageSize] = 1;
    memory.start()[2 * kPageSize] = 1;
    if (clear < 0 || pagemap < 0 || ::write(clear, "4", 1) != 1) ::_exit(1);
    memory.start()[0] = 2;
    // Linux 5.19 makes a page writable again on the way back, and then misses the write.
    if (::mprotect(memory.address(), 3 * kPageSize, PROT_READ) != 0 ||
        ::mprotect(memory.address(), 3 * kPageSize, PROT_READ | PROT_WRITE) != 0) {
      ::_exit(1);
    }
    memory.start()[2 * kPageSize] = 2;
    uint64_t entries[3] = {};
    const off_t offset = static_cast<off_t>(memory.pages().first * sizeof entries[0]);
    if (::pread(pagemap, entries, sizeof entries, offset) != sizeof entries) ::_exit(1);
    if ((entries[0] & kPagemapSoftDirty) == 0) ::_exit(2);
    if ((entries[2] & kPagemapSoftDirty) == 0) ::_exit(4);
    ::_exit((entries[1] & kPagemapSoftDirty) == 0 ? 0 : 3);
  }
  int status = 0;
  pid_t reaped;
  do {
    reaped = ::waitpid(child, &status, 0);
  } while (reaped < 0 && errno == EINTR);
  switch (reaped == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1) {
    case 0:
      return Works(feature, "a write after clear_refs sets its page's bit, and no other");
    case 2:
      return Fails(feature, "clear_refs succeeds, but a write then sets no bit: compiled out");
    case 3:
      return Fails(feature, "clear_refs leaves old bits set");
    case 4:
      return Fails(feature, "a write after mprotect there and back sets no bit");
    default:
      return Fails(feature, "clear_refs or pagemap cannot be used");
  }
}

}  // namespace incr
