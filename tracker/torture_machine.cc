#include "tracker/torture_machine.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace incr {
namespace {

constexpr char kLock[] = "/tmp/incr_ckpt_torture.lock";

bool WriteText(const std::string& path, const std::string& text) {
  const ScopedFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd.ok() && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}
std::string ReadText(const std::string& path) {
  const ScopedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[128];
  const ssize_t n = fd.ok() ? ::read(fd.get(), text, sizeof text) : -1;
  return n > 0 ? std::string(absl::StripAsciiWhitespace({text, static_cast<size_t>(n)})) : "";
}

// Runs in the keeper, so that it can undo what it did and nobody else has to.
class Settings {
 public:
  std::string Apply() {
    std::string missing;
    const auto want = [&](bool ok, const char* what) {
      if (!ok) absl::StrAppend(&missing, what, ": ", std::strerror(errno), "\n");
    };
    want(Set("/sys/kernel/mm/ksm/sleep_millisecs", "10"), "KSM's pace");
    want(Set("/sys/kernel/mm/ksm/pages_to_scan", "1000"), "KSM's pace");
    (void)Set("/sys/kernel/mm/ksm/use_zero_pages", "1");  // 4.12
    want(Set("/sys/kernel/mm/ksm/run", "1"), "KSM");
    const std::string pool = ReadText("/proc/sys/vm/nr_hugepages");
    want(Set("/proc/sys/vm/nr_hugepages", absl::StrCat(std::atoi(pool.c_str()) + 6)), "hugetlbfs");
    want(AddSwap(), "swap (zram)");
    return missing;
  }

  void Undo() {
    if (!device_.empty()) {
      ::swapoff(absl::StrCat("/dev/zram", device_).c_str());
      WriteText(absl::StrCat("/sys/block/zram", device_, "/reset"), "1");
      WriteText("/sys/class/zram-control/hot_remove", device_);
    }
    for (auto it = before_.rbegin(); it != before_.rend(); ++it) WriteText(it->first, it->second);
  }

 private:
  bool Set(const std::string& path, const std::string& value) {
    const std::string before = ReadText(path);
    if (before.empty() || !WriteText(path, value)) return false;
    before_.emplace_back(path, before);
    return true;
  }

  bool AddSwap() {
    const std::string device = ReadText("/sys/class/zram-control/hot_add");
    if (device.empty()) return false;
    device_ = device;
    if (!WriteText(absl::StrCat("/sys/block/zram", device, "/disksize"), "128M")) return false;
    // The node of a new device comes with devtmpfs.
    return std::system(absl::StrCat("mkswap /dev/zram", device, " >/dev/null 2>&1").c_str()) == 0 &&
           ::swapon(absl::StrCat("/dev/zram", device).c_str(), 0) == 0;
  }

  std::vector<std::pair<std::string, std::string>> before_;
  std::string device_;
};

}  // namespace

TortureMachine::TortureMachine() {
  const ScopedFd lock(::open(kLock, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.ok() || ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    missing_.push_back("KSM, swap, hugetlbfs: another torture test has them in hand");
    return;
  }
  int alive[2], done[2];
  if (::pipe2(alive, O_CLOEXEC) != 0 || ::pipe2(done, O_CLOEXEC) != 0) std::abort();
  keeper_ = ::fork();
  if (keeper_ == 0) {
    ::setsid();  // A Ctrl-C is for the test.
    ::close(alive[1]);
    Settings settings;
    const std::string missing = absl::StrCat(settings.Apply(), "\n");
    (void)!::write(done[1], missing.data(), missing.size());
    ::close(done[1]);
    char nothing;
    while (::read(alive[0], &nothing, 1) < 0 && errno == EINTR) {
    }
    settings.Undo();
    ::_exit(0);
  }
  ::close(alive[0]);
  ::close(done[1]);
  alive_.reset(alive[1]);
  const ScopedFd answer(done[0]);
  std::string text;
  char part[512];
  for (ssize_t n; (n = ::read(answer.get(), part, sizeof part)) > 0;) text.append(part, n);
  if (const auto trimmed = absl::StripAsciiWhitespace(text); !trimmed.empty()) {
    missing_.emplace_back(trimmed);
  }
}

TortureMachine::~TortureMachine() {
  alive_.reset();
  if (keeper_ > 0) ::waitpid(keeper_, nullptr, 0);
}

void TortureMachine::Compact() { WriteText("/proc/sys/vm/compact_memory", "1"); }

}  // namespace incr
