#include "process/process_handle.h"

#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "process/test_child.h"

namespace incr {
namespace {

pid_t ToPid(const std::string& text) {
  pid_t pid = 0;
  EXPECT_TRUE(absl::SimpleAtoi(text, &pid)) << text;
  return pid;
}

TEST(ProcessHandleTest, NoSuchProcessIsNotFound) {
  pid_t gone = 0;
  {
    TestChild child = TestChild::Fork([] {});
    gone = child.pid();
    child.Wait();
  }
  for (const pid_t pid : {0, -1, gone, 0x7fffffff}) {
    const auto handle = ProcessHandle::Open(pid);
    EXPECT_TRUE(absl::IsNotFound(handle.status())) << pid << ": " << handle.status();
  }
}

TEST(ProcessHandleTest, LastCpuIsWhereItRanUnlessItIsOfARealTimePolicy) {
  TestChild child = TestChild::Fork([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    Say(absl::StrCat(sched_getcpu()));
    AwaitLine();
    const sched_param lowest{.sched_priority = 1};
    Say(sched_setscheduler(0, SCHED_FIFO, &lowest) == 0 ? "real-time" : "refused");
    AwaitLine();
  });
  EXPECT_EQ(LastCpuOf(child.handle()), ToPid(child.ReadLine()));
  child.WriteLine("");
  if (child.ReadLine() == "real-time") {
    EXPECT_EQ(LastCpuOf(child.handle()), -1);
  }
  child.WriteLine("");
  child.Wait();
  EXPECT_EQ(LastCpuOf(child.handle()), -1);
}

TEST(ProcessHandleTest, ThreadIdIsNoProcess) {
  std::atomic<pid_t> tid{0};
  std::atomic<bool> done{false};
  std::thread thread([&] {
    tid = gettid();
    while (!done) usleep(1000);
  });
  while (tid == 0) usleep(100);
  EXPECT_TRUE(absl::IsNotFound(ProcessHandle::Open(tid).status()));
  done = true;
  thread.join();
}

TEST(ProcessHandleTest, ExitEndsAliveAndSignals) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  EXPECT_TRUE(child.handle().alive());
  EXPECT_TRUE(child.handle().SendSignal(0).ok());
  child.CloseInput();
  EXPECT_TRUE(Eventually([&] { return !child.handle().alive(); }));  // a zombie is not alive
  child.Wait();
  EXPECT_FALSE(child.handle().alive());
  EXPECT_TRUE(absl::IsNotFound(child.handle().SendSignal(SIGKILL)));
  EXPECT_TRUE(absl::IsNotFound(ReadProcessFacts(child.handle()).status()));
}

TEST(ProcessHandleTest, DuplicatedDescriptorIsTheSameOpenFile) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  TestChild child = TestChild::Fork([&] {
    dup2(ends[1], 42);
    AwaitLine();
    Say("x");
    AwaitLine();
  });
  child.WriteLine("");
  ASSERT_EQ(child.ReadLine(), "x");
  const auto copy = child.handle().DuplicateFd(42);
  ASSERT_TRUE(copy.ok()) << copy.status();
  ASSERT_EQ(write(copy->get(), "hi", 2), 2);
  char bytes[2];
  ASSERT_EQ(read(ends[0], bytes, 2), 2);
  EXPECT_EQ(std::memcmp(bytes, "hi", 2), 0);
  const auto missing = child.handle().DuplicateFd(43);
  EXPECT_NE(missing.status().message().find("43"), std::string::npos) << missing.status();
  close(ends[0]);
  close(ends[1]);
}

TEST(ProcessFactsTest, OddNamesDoNotConfuseTheFields) {
  for (const char* name : {"a) R 1 (b", "((", "))) ) )", "new\nline"}) {
    TestChild child = TestChild::Fork([name] {
      prctl(PR_SET_NAME, name);
      umask(027);
      Say("ready");
      AwaitLine();
    });
    ASSERT_EQ(child.ReadLine(), "ready");
    const auto facts = ReadProcessFacts(child.handle());
    ASSERT_TRUE(facts.ok()) << facts.status();
    EXPECT_EQ(facts->comm, name);
    EXPECT_EQ(facts->ppid, getpid());
    EXPECT_EQ(facts->pgid, getpgrp());
    EXPECT_EQ(facts->sid, getsid(0));
    EXPECT_EQ(facts->uid, geteuid());
    EXPECT_EQ(facts->umask, 027u);
    EXPECT_EQ(facts->thread_count, 1u);
    EXPECT_EQ(facts->tracer, 0);
    EXPECT_FALSE(facts->zombie);
    EXPECT_FALSE(facts->kernel_thread);
    EXPECT_FALSE(facts->no_new_privs);
    EXPECT_EQ(facts->seccomp_mode, 0u);
    EXPECT_EQ(facts->start_time, child.handle().start_time());
    EXPECT_NE(facts->start_code, 0u);
    EXPECT_GT(facts->end_code, facts->start_code);
    EXPECT_GE(facts->arg_end, facts->arg_start);
    EXPECT_NE(facts->start_stack, 0u);
  }
}

TEST(CheckTrackableTest, AnOrdinaryChildMayBeTracked) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  EXPECT_TRUE(CheckTrackable(child.handle()).ok()) << CheckTrackable(child.handle());
}

void ExpectRefused(pid_t pid, absl::string_view reason) {
  const auto handle = ProcessHandle::Open(pid);
  ASSERT_TRUE(handle.ok()) << handle.status();
  const absl::Status status = CheckTrackable(*handle);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(std::string(reason)), std::string::npos) << status;
  EXPECT_NE(status.message().find(absl::StrCat(pid)), std::string::npos) << status;
}

TEST(CheckTrackableTest, OurselvesAndOurParentsAreRefused) {
  ExpectRefused(getpid(), "itself");
  ExpectRefused(getppid(), "parent");
}

TEST(CheckTrackableTest, KernelThreadIsRefused) {
  const auto status = ReadWholeFile("/proc/2/stat");
  if (!status.ok() || status->find("kthreadd") == std::string::npos) {
    GTEST_SKIP() << "no kernel thread is visible in this pid namespace";
  }
  ExpectRefused(2, "kernel thread");
}

TEST(CheckTrackableTest, ZombieIsRefused) {
  TestChild child = TestChild::Fork([] {});
  ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'Z'; }));
  ExpectRefused(child.pid(), "zombie");
}

TEST(CheckTrackableTest, LostMainThreadIsRefused) {
  TestChild child = TestChild::Fork([] {
    std::thread([] {
      AwaitLine();
      _exit(0);
    }).detach();
    syscall(SYS_exit, 0);  // pthread_exit would unwind the test
  });
  ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'Z'; }));
  ExpectRefused(child.pid(), "main thread");
}

TEST(CheckTrackableTest, TracedProcessIsRefusedAndTheTracerNamed) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  TestChild tracer = TestChild::Fork([&] {
    Say(ptrace(PTRACE_SEIZE, child.pid(), 0, 0) == 0 ? "traced" : strerror(errno));
    AwaitLine();
  });
  ASSERT_EQ(tracer.ReadLine(), "traced");
  ExpectRefused(child.pid(), absl::StrCat("traced by pid ", tracer.pid()));
}

TEST(CheckTrackableTest, OtherUserIsRefusedAlsoWhenWeAreRoot) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to make a process of another user";
  TestChild child = TestChild::Fork([] {
    if (setresuid(65534, 65534, 65534) != 0) _exit(1);
    Say("ready");
    AwaitLine();
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  ExpectRefused(child.pid(), "another user (uid 65534");
  TestChild saved = TestChild::Fork([] {
    if (setresuid(0, 0, 65534) != 0) _exit(1);
    Say("ready");
    AwaitLine();
  });
  ASSERT_EQ(saved.ReadLine(), "ready");
  ExpectRefused(saved.pid(), "another user");
}

// A 32-bit program in 100 bytes: pause() for ever.
std::string WriteTinyElf32() {
  struct {
    Elf32_Ehdr header;
    Elf32_Phdr segment;
    unsigned char code[16] = {0xb8, 29, 0, 0, 0,  // mov eax, __NR_pause
                              0xcd, 0x80,          // int 0x80
                              0xeb, 0xf7};         // jmp to the start
  } file{};
  std::memcpy(file.header.e_ident, ELFMAG, SELFMAG);
  file.header.e_ident[EI_CLASS] = ELFCLASS32;
  file.header.e_ident[EI_DATA] = ELFDATA2LSB;
  file.header.e_ident[EI_VERSION] = EV_CURRENT;
  file.header.e_type = ET_EXEC;
  file.header.e_machine = EM_386;
  file.header.e_version = EV_CURRENT;
  file.header.e_entry = 0x08048000 + sizeof file.header + sizeof file.segment;
  file.header.e_phoff = sizeof file.header;
  file.header.e_ehsize = sizeof file.header;
  file.header.e_phentsize = sizeof file.segment;
  file.header.e_phnum = 1;
  file.segment.p_type = PT_LOAD;
  file.segment.p_vaddr = 0x08048000;
  file.segment.p_filesz = file.segment.p_memsz = sizeof file;
  file.segment.p_flags = PF_R | PF_X;
  file.segment.p_align = 4096;
  const std::string path = absl::StrCat(testing::TempDir(), "elf32-", getpid());
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0755);
  EXPECT_EQ(write(fd, &file, sizeof file), static_cast<ssize_t>(sizeof file));
  close(fd);
  return path;
}

TEST(CheckTrackableTest, ThirtyTwoBitProgramIsRefused) {
  const std::string path = WriteTinyElf32();
  TestChild child = TestChild::Exec({path});
  const bool runs = Eventually([&] {
    const auto exe = ReadLink(child.handle().ProcPath("exe"));
    return (exe.ok() && *exe == path) || !child.handle().alive();
  });
  if (!runs || !child.handle().alive()) {
    unlink(path.c_str());
    GTEST_SKIP() << "this kernel does not run 32-bit programs";
  }
  ExpectRefused(child.pid(), "32-bit");
  unlink(path.c_str());
}

TEST(ListChildrenTest, LiveChildrenOfAllThreadsWithoutZombies) {
  TestChild child = TestChild::Fork([] {
    const pid_t dead = fork();
    if (dead == 0) _exit(0);
    siginfo_t info;
    waitid(P_PID, dead, &info, WEXITED | WNOWAIT);
    const auto sleeper = [] {
      const pid_t pid = fork();
      if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
      }
      return pid;
    };
    const pid_t first = sleeper();
    // The thread must outlive the test, or its child passes to another.
    std::thread([&sleeper] {
      Say(absl::StrCat(sleeper()));
      for (;;) pause();
    }).detach();
    Say(absl::StrCat(first));
    AwaitLine();
  });
  std::vector<pid_t> expected{ToPid(child.ReadLine()), ToPid(child.ReadLine())};
  std::sort(expected.begin(), expected.end());
  const auto children = ListChildren(child.handle());
  ASSERT_TRUE(children.ok()) << children.status();
  EXPECT_EQ(*children, expected);
}

}  // namespace
}  // namespace incr
