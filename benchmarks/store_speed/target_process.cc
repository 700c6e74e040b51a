#include "benchmarks/store_speed/target_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr::store_speed {
namespace {

constexpr uint64_t kReadPages = 1024;

// [first, end) of what a heap may be: private, writable, and no file.
std::vector<std::pair<uint64_t, uint64_t>> AnonymousMappings(pid_t pid) {
  std::vector<std::pair<uint64_t, uint64_t>> mappings;
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  for (std::string line; std::getline(maps, line);) {
    uint64_t first = 0, end = 0, inode = 0;
    char protection[8] = "", device[16] = "";
    unsigned long offset = 0;
    char name[256] = "";
    if (std::sscanf(line.c_str(), "%lx-%lx %7s %lx %15s %lu %255[^\n]", &first, &end, protection, &offset, device, &inode,
                    name) < 6) {
      continue;
    }
    if (absl::StartsWith(protection, "rw") && protection[3] == 'p' && inode == 0 && !absl::StrContains(name, "[v")) {
      mappings.emplace_back(first, end);
    }
  }
  return mappings;
}

class Stopped {
 public:
  explicit Stopped(pid_t pid) : pid_(pid) {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  ~Stopped() { ::kill(pid_, SIGCONT); }

 private:
  const pid_t pid_;
};

// Which pages of [first, first + present.size()) exist: reading others would make the table larger than the program is.
void FindPresent(int pagemap, uint64_t first, std::vector<uint64_t>* present) {
  const ssize_t n = ::pread(pagemap, present->data(), present->size() * 8, first * 8);
  for (size_t i = 0; i < present->size(); ++i) {
    (*present)[i] = n >= static_cast<ssize_t>((i + 1) * 8) && ((*present)[i] >> 62) != 0;
  }
}

}  // namespace

absl::StatusOr<TargetProcess> TargetProcess::Start(const std::vector<std::string>& command) {
  int to[2], from[2];
  if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoStatus("fork");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(to[0], 0);
    ::dup2(from[1], 1);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(to[0]);
  ::close(from[1]);
  return TargetProcess(pid, ScopedFd(to[1]), ScopedFd(from[0]));
}

TargetProcess::~TargetProcess() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

absl::Status TargetProcess::Ask(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(to_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoStatus("target's input");
  for (char c = 0; c != '\n';) {
    if (::read(from_.get(), &c, 1) != 1) return absl::InternalError("the target ended before it answered");
  }
  return absl::OkStatus();
}

absl::StatusOr<EpochPages> TargetProcess::TakePages(Workload* workload,
                                                    std::map<uint64_t, const uint8_t*>* image) const {
  const Stopped stopped(pid_);
  const ScopedFd pagemap(::open(absl::StrCat("/proc/", pid_, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.ok()) return ErrnoStatus("pagemap");
  EpochPages epoch;
  std::vector<uint8_t> bytes(kReadPages * kPageSize);
  for (const auto& [start, end] : AnonymousMappings(pid_)) {
    for (uint64_t at = start; at < end; at += bytes.size()) {
      const uint64_t count = std::min<uint64_t>(kReadPages, (end - at) / kPageSize);
      std::vector<uint64_t> present(count);
      FindPresent(pagemap.get(), at / kPageSize, &present);
      const iovec to = {bytes.data(), count * kPageSize}, from = {reinterpret_cast<void*>(at), count * kPageSize};
      if (::process_vm_readv(pid_, &to, 1, &from, 1, 0) != static_cast<ssize_t>(count * kPageSize)) {
        return ErrnoStatus("process_vm_readv");
      }
      for (uint64_t i = 0; i < count;) {
        const auto changed = [&](uint64_t n) {
          if (n >= count || !present[n]) return false;
          const auto known = image->find(at / kPageSize + n);
          return known == image->end() || std::memcmp(known->second, &bytes[n * kPageSize], kPageSize) != 0;
        };
        uint64_t n = 0;
        while (changed(i + n)) ++n;
        if (n > 0) {
          uint8_t* kept = workload->Allocate(n);
          std::memcpy(kept, &bytes[i * kPageSize], n * kPageSize);
          epoch.runs.push_back({{at / kPageSize + i, n}, kept});
          for (uint64_t k = 0; k < n; ++k) (*image)[at / kPageSize + i + k] = kept + k * kPageSize;
        }
        i += n + 1;
      }
    }
  }
  return epoch;
}

}  // namespace incr::store_speed
