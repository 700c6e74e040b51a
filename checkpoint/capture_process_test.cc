// What cannot be brought back is refused by name; what is odd but harmless is kept.
#include "checkpoint/capture_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <atomic>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/status.h"
#include "process/frozen_process.h"
#include "process/memory_map.h"
#include "proto/image_check.h"

namespace incr {
namespace {

// A child of ours that runs `setup`, says so, and sleeps.
class Target {
 public:
  explicit Target(const std::function<void()>& setup) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      setup();
      (void)!::write(ready[1], "r", 1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char byte;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1) << "the target's setup failed";
    ::close(ready[0]);
  }
  ~Target() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

absl::StatusOr<pb::Image> Capture(pid_t pid, bool allow_unsupported) {
  INCR_ASSIGN_OR_RETURN(ProcessHandle target, ProcessHandle::Open(pid));
  INCR_ASSIGN_OR_RETURN(FrozenProcess frozen, FrozenProcess::Freeze(target));
  INCR_ASSIGN_OR_RETURN(FrozenState state, CaptureOuterState(frozen));
  INCR_RETURN_IF_ERROR(CaptureInjectedState(frozen, InjectionPlan(), &state));
  INCR_RETURN_IF_ERROR(CapturePendingSignals(frozen, &state));
  const int64_t moment_us = WallMicros();
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(target));
  INCR_ASSIGN_OR_RETURN(MemoryMap flags, ReadSmaps(target));
  pb::Image image;
  pb::Process* process = image.add_processes();
  INCR_ASSIGN_OR_RETURN(const LastingState lasting, CaptureLasting(target));
  INCR_RETURN_IF_ERROR(CaptureProcess(target, state, lasting, allow_unsupported, process, &image));
  INCR_RETURN_IF_ERROR(CaptureMappings(target, map, flags, moment_us, allow_unsupported, process, &image));
  return ParseImage(image.SerializeAsString());
}

// Refused with a message that holds `word`; allowed, a warning holds it.
void ExpectUnsupported(const std::function<void()>& setup, const std::string& word) {
  Target target(setup);
  auto refused = Capture(target.pid(), false);
  ASSERT_FALSE(refused.ok()) << "not refused: " << word;
  EXPECT_NE(refused.status().message().find(word), absl::string_view::npos) << refused.status();
  EXPECT_NE(refused.status().message().find(std::to_string(target.pid())), absl::string_view::npos);
  auto allowed = Capture(target.pid(), true);
  ASSERT_TRUE(allowed.ok()) << allowed.status();
  std::string warnings;
  for (const std::string& warning : allowed->warnings()) warnings += warning + "\n";
  EXPECT_NE(warnings.find(word), std::string::npos) << warnings;
}

TEST(CaptureProcess, AnOrdinaryProcessIsAWholeImageWithoutWarnings) {
  Target target([] {});
  auto image = Capture(target.pid(), false);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->warnings_size(), 0) << image->warnings(0);
  EXPECT_EQ(image->processes(0).pid(), target.pid());
  EXPECT_EQ(image->processes(0).limits_size(), 16);
  EXPECT_EQ(image->processes(0).signal_actions_size(), 64);
  EXPECT_NE(image->machine().vdso_hash(), 0u);
  EXPECT_NE(image->machine().xfeatures(), 0u);
}

TEST(CaptureProcess, RefusesChildren) {
  ExpectUnsupported(
      [] {
        if (::fork() == 0) {
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          for (;;) ::pause();
        }
      },
      "child processes (");
}

TEST(CaptureProcess, RefusesPosixTimers) {
  ExpectUnsupported(
      [] {
        timer_t timer;
        if (::timer_create(CLOCK_MONOTONIC, nullptr, &timer) != 0) ::_exit(1);
      },
      "POSIX timers");
}

TEST(CaptureProcess, RefusesSeccomp) {
  // A filter that allows all: mode 1 would forbid our injected calls' own set-up.
  ExpectUnsupported(
      [] {
        struct {
          uint16_t code;
          uint8_t jt, jf;
          uint32_t k;
        } allow = {0x06, 0, 0, SECCOMP_RET_ALLOW};
        struct {
          uint16_t count;
          void* filter;
        } program = {1, &allow};
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(1);
      },
      "seccomp");
}

// The image has one set of credentials, filters and descriptors for all threads.
TEST(CaptureProcess, RefusesAThreadWithCredentialsOrDescriptorsOfItsOwn) {
  const auto in_a_thread = [](void (*setup)()) {
    std::atomic<bool> done = false;
    std::thread([&done, setup] {
      setup();
      done = true;
      for (;;) ::pause();
    }).detach();
    while (!done) ::usleep(1000);
  };
  ExpectUnsupported([&] { in_a_thread([] { ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }); },
                    "in NoNewPrivs");
  ExpectUnsupported([&] { in_a_thread([] { (void)::unshare(CLONE_FILES); }); },
                    "descriptors or a working directory of its own");
}

TEST(CaptureProcess, RefusesANamespaceOfItsOwn) {
  ExpectUnsupported([] { if (::unshare(CLONE_NEWUTS) != 0) ::_exit(1); }, "uts namespace");
}

TEST(CaptureProcess, RefusesAMappedFileThatIsDeletedAndNamesIt) {
  ExpectUnsupported(
      [] {
        char name[] = "/tmp/incr-ckpt-capture-XXXXXX";
        const int fd = ::mkstemp(name);
        if (::ftruncate(fd, 4096) != 0) ::_exit(1);
        if (::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED) ::_exit(1);
        ::unlink(name);
      },
      "/tmp/incr-ckpt-capture-");
}

TEST(CaptureProcess, RefusesAMappedFileThatIsReplaced) {
  ExpectUnsupported(
      [] {
        char name[] = "/tmp/incr-ckpt-capture-XXXXXX";
        const int fd = ::mkstemp(name);
        if (::ftruncate(fd, 4096) != 0) ::_exit(1);
        if (::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED) ::_exit(1);
        const std::string other = std::string(name) + "-new";
        ::close(::open(other.c_str(), O_CREAT | O_RDWR, 0600));
        ::rename(other.c_str(), name);
      },
      "/tmp/incr-ckpt-capture-");
  for (const auto& entry : std::filesystem::directory_iterator("/tmp")) {
    if (entry.path().filename().string().starts_with("incr-ckpt-capture-")) {
      std::filesystem::remove(entry.path());
    }
  }
}

TEST(CaptureProcess, RefusesSysVSharedMemory) {
  ExpectUnsupported(
      [] {
        const int id = ::shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
        if (id < 0 || ::shmat(id, nullptr, 0) == reinterpret_cast<void*>(-1)) ::_exit(1);
        ::shmctl(id, IPC_RMID, nullptr);
      },
      "SYSV");
}

// The schema's strings are UTF-8, and an image with other bytes could never be parsed again.
TEST(CaptureProcess, ANameThatIsNotUtf8DoesNotSpoilTheImage) {
  Target target([] { ::prctl(PR_SET_NAME, "na\xc3"); });
  auto image = Capture(target.pid(), false);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->processes(0).threads(0).comm(), "na?");
}

TEST(CaptureMappings, SharedAnonymousMemoryIsOneObjectHoweverOftenMapped) {
  Target target([] {
    void* memory =
        ::mmap(nullptr, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (::mremap(memory, 0, 8 * 4096, MREMAP_MAYMOVE) == MAP_FAILED) ::_exit(1);
    if (::mprotect(memory, 4096, PROT_READ) != 0) ::_exit(1);
  });
  auto image = Capture(target.pid(), false);
  ASSERT_TRUE(image.ok()) << image.status();
  ASSERT_EQ(image->memory_objects_size(), 1);
  EXPECT_EQ(image->memory_objects(0).size(), 8 * 4096u);
  int mappings = 0;
  for (const pb::Mapping& mapping : image->processes(0).mappings()) {
    if (mapping.kind() != pb::Mapping::SHARED_OBJECT) continue;
    ++mappings;
    EXPECT_TRUE(mapping.may_write());
  }
  EXPECT_EQ(mappings, 3);
}

}  // namespace
}  // namespace incr
