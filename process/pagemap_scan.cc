#include "process/pagemap_scan.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "process/kernel_abi.h"

namespace incr {
namespace {

constexpr size_t kRegions = 2048;  // 48 KiB; the kernel itself collects 512 at a time

// The kernel walks with the target's mmap lock held and without a rest. So it is asked for parts that it
// walks in some 30 us: whoever wants the lock, or this CPU, waits no longer. Holes take no time and
// let the parts grow. None ends inside a huge page, which write_protect would split for that.
class PartSize {
 public:
  uint64_t EndAfter(uint64_t start, uint64_t end) const {
    return end - start > bytes_ ? (start + bytes_) / kHugePage * kHugePage : end;
  }
  void TakeAll() { bytes_ = kMost; }
  void Adapt(int64_t elapsed_us) {
    if (elapsed_us < kShortUs && bytes_ < kMost) bytes_ *= 2;
    if (elapsed_us > kLongUs && bytes_ > kLeast) bytes_ /= 2;
  }

 private:
  static constexpr uint64_t kHugePage = 2u << 20;
  static constexpr int64_t kShortUs = 15, kLongUs = 60;
  static constexpr uint64_t kLeast = 8u << 20, kMost = 1ull << 62;
  uint64_t bytes_ = 64u << 20;
};

}  // namespace

bool IsMarker(uint64_t pagemap_entry) {
  return (pagemap_entry & kPagemapSwapped) != 0 && (pagemap_entry & kPagemapPresent) == 0 &&
         (pagemap_entry & 31) == kPagemapMarkerType;
}

absl::StatusOr<PagemapScanner> PagemapScanner::Open(const ProcessHandle& process) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, OpenFile(process.ProcPath("pagemap"), O_RDONLY));
  // A pid that was reused meanwhile would have given us a stranger's memory.
  if (!process.alive()) {
    return absl::NotFoundError(absl::StrFormat("process %d has exited", process.pid()));
  }
  // Of an empty range, to see whether the call is known.
  pm_scan_arg nothing{};
  nothing.size = sizeof nothing;
  const bool can_scan = ::ioctl(fd.get(), PAGEMAP_SCAN, &nothing) >= 0;
  return PagemapScanner(std::move(fd), can_scan);
}

absl::Status PagemapScanner::Scan(PageRange range, const ScanQuery& query,
                                  absl::FunctionRef<void(PageRange, uint64_t)> found) const {
  INCR_RETURN_IF_ERROR(ScanUnchecked(range, query, found));
  return CheckAlive();
}

absl::Status PagemapScanner::ScanUnchecked(
    PageRange range, const ScanQuery& query,
    absl::FunctionRef<void(PageRange, uint64_t)> found) const {
  const std::unique_ptr<page_region[]> regions(new page_region[kRegions]);
  pm_scan_arg arg{};
  arg.size = sizeof arg;
  arg.flags = query.write_protect ? PM_SCAN_WP_MATCHING : 0;
  arg.start = range.first * kPageSize;
  arg.vec = reinterpret_cast<uintptr_t>(regions.get());
  arg.vec_len = kRegions;
  arg.max_pages = query.first_only ? 1 : 0;
  arg.category_inverted = query.inverted;
  arg.category_mask = query.all_of;
  arg.category_anyof_mask = query.any_of;
  arg.return_mask = query.report;
  const uint64_t end = range.end() * kPageSize;
  PartSize part;
  while (arg.start < end) {
    arg.end = part.EndAfter(arg.start, end);
    const Stopwatch watch;
    const int count = ::ioctl(fd_.get(), PAGEMAP_SCAN, &arg);
    if (count < 0 && errno == EINTR) {
      // What was found, and perhaps protected, before the signal is in no result: with
      // write_protect those writes would be lost. Only a fatal signal comes here.
      return ErrnoStatus("ioctl(pagemap, PAGEMAP_SCAN)");
    }
    if (count < 0) {
      return ErrnoStatus(
          absl::StrFormat("ioctl(pagemap, PAGEMAP_SCAN, %x-%x)", arg.start, arg.end));
    }
    for (int i = 0; i < count; ++i) {
      const page_region& region = regions[i];
      found({region.start / kPageSize, (region.end - region.start) / kPageSize},
            region.categories);
    }
    if (query.first_only && count > 0) break;
    // Done, or the vector was full: goes on at walk_end. A part that ends inside a page of 1 GiB
    // (hugetlbfs) gets nowhere. Anything else would spin.
    if (arg.walk_end <= arg.start && arg.end < end) {
      part.TakeAll();
      continue;
    }
    if (arg.walk_end <= arg.start) {
      return absl::InternalError(absl::StrFormat(
          "ioctl(pagemap, PAGEMAP_SCAN): no progress at %x", arg.start));
    }
    arg.start = arg.walk_end;
    part.Adapt(watch.elapsed_us());
  }
  return absl::OkStatus();
}

absl::Status PagemapScanner::CheckAlive() const {
  // The scan of an address space that is gone succeeds and finds nothing, which would
  // read as "all pages dropped"; a read gives 0 bytes then.
  uint64_t entry;
  const ssize_t n = ::pread(fd_.get(), &entry, sizeof entry, 0);
  if (n < 0) return ErrnoStatus("pread(pagemap)");
  if (n == 0) return absl::NotFoundError("pagemap: the target's memory is gone");
  return absl::OkStatus();
}

absl::Status PagemapScanner::ReadEntries(PageRange range, uint64_t* entries) const {
  return PreadExactly(fd_.get(), entries, range.count * sizeof *entries,
                      range.first * sizeof *entries, "pagemap");
}

}  // namespace incr
