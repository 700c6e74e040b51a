// gst_guest — programs that are hard to be a good guest of. Usage: gst_guest MODE PROGRESS_FILE [MORE]
// They verify themselves and report as rt_common.h says.
//
//   uffd      Has userfaultfds of its own. Range A: missing pages are filled in by a thread of its own, and
//             dropped again and again. Range B: it tracks its own writes (WP_ASYNC, PAGEMAP_SCAN) and says
//             BAD if one is not reported. Every tenth step range B is unmapped, made and registered anew.
//   churn     Maps, unmaps, moves and rewrites ranges.
//   plain     Rewrites pages of one range.
//   chroot    The same, with PROGRESS_FILE.root for its root.
//   seccomp   A filter that kills it for any system call that it does not need itself.
//   strict    The same with SECCOMP_MODE_STRICT; progress goes to the descriptor, by write(2).
//   vfork     Is in a vfork most of the time: for MORE ms, then 500 ms not.
//   threads   MORE threads, all busy now and then.
//   reader    Its memory is written by read(2) alone: from /dev/urandom.
//   exec      Executes itself again and again: MORE counts up.
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>
#include <vector>

#include "process/kernel_abi.h"
#include "rt_common.h"

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 64;

uint8_t* Map(uint64_t pages, int extra = 0, void* where = nullptr) {
  void* p = mmap(where, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | extra, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<uint8_t*>(p);
}

void Fill(uint8_t* page, uint64_t seed) {
  for (uint64_t i = 0; i < kPage / 8; ++i) {
    const uint64_t word = Mix(seed * 513 + i);
    memcpy(page + i * 8, &word, 8);
  }
}

bool Right(const uint8_t* page, uint64_t seed) {
  uint8_t expected[kPage];
  Fill(expected, seed);
  return memcmp(page, expected, kPage) == 0;
}

int NewUffd(const Progress& progress, uint64_t features) {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0) progress.Bad("userfaultfd");
  return fd;
}

int Register(int fd, const uint8_t* start, uint64_t pages, uint64_t mode) {
  uffdio_register request{};
  request.range = {reinterpret_cast<uint64_t>(start), pages * kPage};
  request.mode = mode;
  return ioctl(fd, UFFDIO_REGISTER, &request) == 0 ? 0 : errno;
}

void ServeMissing(int fd, const uint8_t* start) {
  for (;;) {
    uffd_msg message;
    if (read(fd, &message, sizeof message) != sizeof message) continue;
    const uint64_t address = message.arg.pagefault.address / kPage * kPage;
    alignas(kPage) uint8_t page[kPage];
    Fill(page, (address - reinterpret_cast<uint64_t>(start)) / kPage + 1);
    uffdio_copy copy{};
    copy.dst = address;
    copy.src = reinterpret_cast<uint64_t>(page);
    copy.len = kPage;
    (void)ioctl(fd, UFFDIO_COPY, &copy);
  }
}

// Which pages were written since the last call; they are armed again.
uint64_t TakeWritten(int pagemap, const uint8_t* start) {
  page_region regions[kPages];
  pm_scan_arg arg{};
  arg.size = sizeof arg;
  arg.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
  arg.start = reinterpret_cast<uint64_t>(start);
  arg.end = arg.start + kPages * kPage;
  arg.vec = reinterpret_cast<uint64_t>(regions);
  arg.vec_len = kPages;
  arg.category_mask = PAGE_IS_WRITTEN;
  arg.return_mask = PAGE_IS_WRITTEN;
  const int count = ioctl(pagemap, PAGEMAP_SCAN, &arg);
  uint64_t written = 0;
  for (int i = 0; i < count; ++i) {
    for (uint64_t at = regions[i].start; at < regions[i].end; at += kPage) {
      written |= uint64_t{1} << ((at - arg.start) / kPage);
    }
  }
  return written;
}

void Uffd(const Progress& progress) {
  uint8_t* const a = Map(kPages);
  const int missing = NewUffd(progress, 0);
  if (Register(missing, a, kPages, UFFDIO_REGISTER_MODE_MISSING) != 0) progress.Bad("range A");
  std::thread(ServeMissing, missing, a).detach();
  uint8_t* b = Map(kPages);
  const int async = NewUffd(progress, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED);
  if (Register(async, b, kPages, UFFDIO_REGISTER_MODE_WP) != 0) progress.Bad("range B");
  const int pagemap = open("/proc/self/pagemap", O_RDONLY);
  std::vector<uint64_t> seeds(kPages, 1);
  bool tracked = true;  // by itself
  for (uint64_t i = 0; i < kPages; ++i) Fill(b + i * kPage, 1);
  TakeWritten(pagemap, b);
  for (uint64_t step = 1; !progress.StopRequested(); ++step) {
    // Half of range A stays as it came, the other half goes and comes.
    const uint64_t page = Mix(step) % kPages;
    if (page % 2 == 0) madvise(a + page * kPage, kPage, MADV_DONTNEED);
    if (!Right(a + page * kPage, page + 1)) progress.Bad("range A");
    uint64_t wrote = 0;
    for (uint64_t i = 0; i < 3; ++i) {
      const uint64_t which = Mix(step * 3 + i) % kPages;
      if (!Right(b + which * kPage, seeds[which])) progress.Bad("range B");
      seeds[which] = step;
      Fill(b + which * kPage, step);
      wrote |= uint64_t{1} << which;
    }
    usleep(2'000);
    if (tracked && (TakeWritten(pagemap, b) & wrote) != wrote) {
      progress.Bad("its own tracking lost a write");
    }
    if (step % 10 == 0) {
      munmap(b, kPages * kPage);
      b = Map(kPages, MAP_FIXED, b);
      // Somebody else may have been faster.
      const int error = Register(async, b, kPages, UFFDIO_REGISTER_MODE_WP);
      if (error != 0 && error != EBUSY) progress.Bad("range B anew");
      tracked = error == 0;
      for (uint64_t i = 0; i < kPages; ++i) Fill(b + i * kPage, seeds[i]);
      if (tracked) TakeWritten(pagemap, b);
    }
    progress.Report(step);
  }
}

// A range comes, is written, moves, goes; what was there is written anew elsewhere.
void Churn(const Progress& progress) {
  struct Range {
    uint8_t* start;
    uint64_t seed;
  };
  std::vector<Range> ranges(16, {nullptr, 0});
  for (uint64_t step = 1; !progress.StopRequested(); ++step) {
    Range& range = ranges[Mix(step) % ranges.size()];
    if (range.start != nullptr) {
      for (uint64_t i = 0; i < kPages; i += 7) {
        if (!Right(range.start + i * kPage, range.seed + i)) progress.Bad("a range");
      }
    }
    if (range.start == nullptr) {
      range.start = Map(kPages);
    } else if (step % 3 == 0) {
      munmap(range.start, kPages * kPage);
      range.start = Map(kPages, MAP_FIXED_NOREPLACE, range.start);
      if (range.start == nullptr) range.start = Map(kPages);
    } else if (step % 3 == 1) {
      void* moved = mremap(range.start, kPages * kPage, kPages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                           Map(kPages));
      if (moved == MAP_FAILED) progress.Bad("mremap");
      range.start = static_cast<uint8_t*>(moved);
    }
    range.seed = step * 1000;
    for (uint64_t i = 0; i < kPages; ++i) Fill(range.start + i * kPage, range.seed + i);
    progress.Report(step);
    usleep(1'000);
  }
}

void Filter(const Progress& progress) {
#define ALLOW(number)                                            \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),           \
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      ALLOW(SYS_pwrite64), ALLOW(SYS_clock_nanosleep), ALLOW(SYS_nanosleep), ALLOW(SYS_access),
      ALLOW(SYS_exit_group), ALLOW(SYS_restart_syscall), ALLOW(SYS_rt_sigreturn),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
#undef ALLOW
  const sock_fprog program{sizeof code / sizeof code[0], code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    progress.Bad("seccomp");
  }
}

void RewriteAndCheck(const Progress& progress, bool filtered) {
  uint8_t* const memory = Map(kPages);
  std::vector<uint64_t> seeds(kPages, 1);
  if (filtered) Filter(progress);
  for (uint64_t i = 0; i < kPages; ++i) Fill(memory + i * kPage, 1);
  for (uint64_t step = 1; !progress.StopRequested(); ++step) {
    const uint64_t page = Mix(step) % kPages;
    if (!Right(memory + page * kPage, seeds[page])) progress.Bad("memory");
    Fill(memory + page * kPage, seeds[page] = step);
    progress.Report(step);
    usleep(1'000);
  }
}

// write(2) is all it may do; it runs until it is killed.
void Strict(const char* path) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  uint8_t* const memory = Map(kPages);
  for (uint64_t i = 0; i < kPages; ++i) Fill(memory + i * kPage, 1);
  std::vector<uint64_t> seeds(kPages, 1);
  if (fd < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) != 0) _exit(2);
  for (uint64_t step = 1;; ++step) {
    const uint64_t page = Mix(step) % kPages;
    const bool right = Right(memory + page * kPage, seeds[page]);
    Fill(memory + page * kPage, seeds[page] = step);
    if (step % 10'000 == 0 || !right) (void)!write(fd, right ? "1" : " BAD", right ? 1 : 4);
  }
}

void Vfork(const Progress& progress, long ms) {
  volatile uint64_t step = 0;
  const timespec time{ms / 1000, ms % 1000 * 1'000'000};
  while (!progress.StopRequested()) {
    progress.Report(step = step + 1);
    const pid_t child = vfork();
    if (child == 0) {
      nanosleep(&time, nullptr);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
    usleep(500'000);
  }
}

void Threads(const Progress& progress, int count) {
  std::atomic<bool> stop{false};
  std::vector<std::atomic<uint64_t>> steps(count);
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      alignas(kPage) uint8_t page[kPage];
      uint64_t seed = 1;
      Fill(page, seed);
      while (!stop) {
        if (!Right(page, seed)) progress.Bad("a stack");
        Fill(page, ++seed);
        steps[i] = seed;
        usleep(20'000);
      }
    });
  }
  while (!progress.StopRequested()) {
    uint64_t least = UINT64_MAX;
    for (const auto& step : steps) least = std::min<uint64_t>(least, step);
    progress.Report(least);
    usleep(5'000);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

void Reader(const Progress& progress) {
  uint8_t* const memory = Map(kPages);
  uint8_t* const copy = Map(kPages);
  const int random = open("/dev/urandom", O_RDONLY);
  if (read(random, memory, kPages * kPage) != kPages * kPage) progress.Bad("read");
  memcpy(copy, memory, kPages * kPage);
  for (uint64_t step = 1; !progress.StopRequested(); ++step) {
    const uint64_t at = Mix(step) % kPages * kPage;
    if (memcmp(memory + at, copy + at, kPage) != 0) progress.Bad("what was read is gone");
    if (read(random, memory + at, kPage) != kPage) progress.Bad("read");
    memcpy(copy + at, memory + at, kPage);
    progress.Report(step);
    usleep(2'000);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string mode = argv[1];
  const long more = argc > 3 ? atol(argv[3]) : 0;
  if (mode == "strict") Strict(argv[2]);
  const Progress progress(argv[2]);
  if (mode == "exec") {
    const std::string count = std::to_string(more + 1);
    uint8_t* const memory = Map(512);
    for (uint64_t i = 0; i < 512; ++i) Fill(memory + i * kPage, more);
    progress.Report(more + 1);
    usleep(Mix(more) % 30'000);
    execl("/proc/self/exe", argv[0], "exec", argv[2], count.c_str(), nullptr);
  }
  if (mode == "chroot") {
    const std::string root = std::string(argv[2]) + ".root";
    if (mkdir(root.c_str(), 0700) != 0 || chroot(root.c_str()) != 0 || chdir("/") != 0) progress.Bad("chroot");
    RewriteAndCheck(progress, false);
  }
  if (mode == "seccomp" || mode == "plain") RewriteAndCheck(progress, mode == "seccomp");
  if (mode == "uffd") Uffd(progress);
  if (mode == "churn") Churn(progress);
  if (mode == "vfork") Vfork(progress, more);
  if (mode == "threads") Threads(progress, static_cast<int>(more));
  if (mode == "reader") Reader(progress);
  _exit(0);
}
