#include "process/remote_syscalls.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/memory_map.h"
#include "process/test_child.h"

namespace incr {
namespace {

// A frozen child and calls begun in its leader.
struct Driven {
  explicit Driven(TestChild& child)
      : frozen(FrozenProcess::Freeze(child.handle())),
        calls(Start(child)) {}

  absl::StatusOr<RemoteSyscalls> Start(TestChild& child) {
    if (!frozen.ok()) return frozen.status();
    const auto instruction = FindSyscallInstruction(child.handle());
    if (!instruction.ok()) return instruction.status();
    return RemoteSyscalls::Begin(child.pid(), *instruction);
  }

  absl::StatusOr<FrozenProcess> frozen;
  absl::StatusOr<RemoteSyscalls> calls;
};

TEST(RemoteSyscallsTest, CallsAreMadeByTheTargetAndErrorsAreErrnos) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  Driven driven(child);
  ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
  RemoteSyscalls& calls = *driven.calls;
  EXPECT_EQ(*calls.Raw(SYS_getpid, {}), child.pid());
  EXPECT_EQ(*calls.Raw(SYS_getppid, {}), getpid());
  EXPECT_EQ(*calls.Raw(SYS_close, {9999}), -EBADF);
  EXPECT_EQ(*calls.Raw(9999, {}), -ENOSYS);
  const auto failed = calls.Call("open a file", SYS_open, 0, O_RDONLY);
  EXPECT_EQ(failed.status().message(), absl::StrCat("open a file in ", child.pid(),
                                                    ": Bad address"));
  // All six arguments arrive.
  const auto mapped = calls.Call("mmap", SYS_mmap, 0x123450000, 2 * kPageSize, PROT_READ,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(*mapped, 0x123450000u);
  ASSERT_TRUE(calls.Call("munmap", SYS_munmap, *mapped, 2 * kPageSize).ok());
}

TEST(RemoteSyscallsTest, EverythingIsPutBack) {
  TestChild child = TestChild::Fork([] {
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_SETMASK, &blocked, nullptr);
    Say("ready");
    AwaitLine();
    Say("went on");
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'S'; }));
  {
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    const auto instruction = FindSyscallInstruction(child.handle());
    const Registers before = *GetRegisters(child.pid());
    const std::string xstate = *GetXstate(child.pid());
    const std::string mask = StatusField(child.pid(), "SigBlk");
    for (int i = 0; i < 100; ++i) {
      auto calls = RemoteSyscalls::Begin(child.pid(), *instruction);
      ASSERT_TRUE(calls.ok()) << calls.status();
      for (int n = 0; n < i % 3; ++n) ASSERT_TRUE(calls->Call("getuid", SYS_getuid).ok());
      if (i % 2 == 0) {
        ASSERT_TRUE(calls->End().ok());
        EXPECT_TRUE(calls->End().ok());
      }  // else: by the destructor
    }
    const Registers after = *GetRegisters(child.pid());
    EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0);
    EXPECT_EQ(*GetXstate(child.pid()), xstate);
    EXPECT_EQ(StatusField(child.pid(), "SigBlk"), mask);
    EXPECT_EQ(StateOfThread(child.pid(), child.pid()), 't');
  }
  child.WriteLine("go");
  EXPECT_EQ(child.ReadLine(), "went on");  // the interrupted read was restarted
}

TEST(RemoteSyscallsTest, ScratchIsUnmappedOnEveryPath) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  Driven driven(child);
  ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
  const auto memory = RemoteMemory::Open(child.handle(), true);
  RemoteAddr address;
  {
    auto scratch = RemoteScratch::Map(&*driven.calls, &*memory, 5000, PROT_READ | PROT_WRITE);
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    EXPECT_EQ(scratch->size(), 2 * kPageSize);
    address = scratch->address();
    ASSERT_TRUE(memory->Write(address, "/proc/self/comm", 16).ok());
    const auto fd = driven.calls->Call("open", SYS_open, address.value(), O_RDONLY);
    ASSERT_TRUE(fd.ok()) << fd.status();
    ASSERT_TRUE(driven.calls->Call("close", SYS_close, *fd).ok());
  }
  char byte;
  EXPECT_FALSE(memory->Read(address, &byte, 1).ok());
}

TEST(RemoteSyscallsTest, ScratchIsWhereItIsWantedUnlessSomethingIsThere) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  Driven driven(child);
  ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
  const auto memory = RemoteMemory::Open(child.handle(), true);
  const auto map = ReadMaps(child.handle());
  ASSERT_TRUE(map.ok());
  const RemoteAddr wanted(MiddleOfWidestGap(*map));
  const auto map_one = [&] {
    return RemoteScratch::Map(&*driven.calls, &*memory, 4096, PROT_READ | PROT_WRITE, wanted);
  };
  auto scratch = map_one();
  ASSERT_TRUE(scratch.ok()) << scratch.status();
  EXPECT_EQ(scratch->address(), wanted);
  constexpr uint64_t kMark = 0x1234'5678;
  ASSERT_TRUE(memory->Write(wanted, &kMark, sizeof kMark).ok());
  auto other = map_one();
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE(other->address(), wanted);
  uint64_t mark = 0;
  ASSERT_TRUE(memory->Read(wanted, &mark, sizeof mark).ok());
  EXPECT_EQ(mark, kMark);
}

TEST(RemoteSyscallsTest, NewThreadOfACloneIsTracedAndAtRest) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  Driven driven(child);
  ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
  const uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                         CLONE_SYSVSEM;
  const auto tid = driven.calls->CloneCall("clone", SYS_clone, {flags});
  ASSERT_TRUE(tid.ok()) << tid.status();
  EXPECT_EQ(ListedThreads(child.pid()).size(), 2u);
  EXPECT_EQ(StateOfThread(child.pid(), *tid), 't');
  {
    auto calls = RemoteSyscalls::Begin(*tid, *FindSyscallInstruction(child.handle()));
    ASSERT_TRUE(calls.ok()) << calls.status();
    EXPECT_EQ(*calls->Raw(SYS_gettid, {}), *tid);
    // Its stack is its creator's: it must not run.
    EXPECT_TRUE(absl::IsNotFound(calls->Raw(SYS_exit, {0}).status()));
  }
  EXPECT_EQ(waitpid(*tid, nullptr, __WALL), *tid);  // `frozen` does not know it
  const auto refused = driven.calls->CloneCall("clone", SYS_clone, {CLONE_THREAD});
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
}

TEST(RemoteSyscallsTest, DeathInMidCallIsNotFound) {
  for (int i = 0; i < 50; ++i) {
    TestChild child = TestChild::Fork([] { AwaitLine(); });
    {
      Driven driven(child);
      ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
      std::thread killer([&] {
        usleep(i * 7);
        (void)child.handle().SendSignal(SIGKILL);
      });
      absl::StatusOr<uint64_t> result = 0;
      while (result.ok()) result = driven.calls->Call("getpid", SYS_getpid);
      EXPECT_TRUE(absl::IsNotFound(result.status())) << result.status();
      EXPECT_TRUE(absl::IsNotFound(driven.calls->End()));
      killer.join();
    }
    EXPECT_EQ(child.Wait(), SIGKILL);
  }
}

TEST(RemoteSyscallsTest, StopsInMidCallDoNotDisturbAndAreKept) {
  TestChild child = TestChild::Fork([] {
    for (;;) AwaitLine();
  });
  for (int i = 0; i < 50; ++i) {
    {
      Driven driven(child);
      ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
      std::thread stopper([&] {
        for (int n = 0; n < 20; ++n) {
          (void)child.handle().SendSignal(n % 2 == 0 ? SIGSTOP : SIGCONT);
          usleep(20);
        }
        (void)child.handle().SendSignal(SIGSTOP);
      });
      for (int n = 0; n < 200; ++n) {
        ASSERT_EQ(*driven.calls->Raw(SYS_getpid, {}), child.pid());
      }
      stopper.join();
      ASSERT_TRUE(driven.calls->End().ok());
    }
    ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'T'; })) << i;
    ASSERT_TRUE(child.handle().SendSignal(SIGCONT).ok());
    ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'S'; })) << i;
  }
}

TEST(RemoteSyscallsTest, WorksWithoutAVdso) {
  TestChild child = TestChild::Fork([] {
    // [vdso] is two pages; unmapped as a program may.
    munmap(reinterpret_cast<void*>(getauxval(AT_SYSINFO_EHDR)), 2 * kPageSize);
    Say("ready");
    AwaitLine();
    Say("went on");
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  {
    Driven driven(child);
    ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
    EXPECT_EQ(*driven.calls->Raw(SYS_getpid, {}), child.pid());
  }
  child.WriteLine("go");
  EXPECT_EQ(child.ReadLine(), "went on");
}

TEST(RemoteSyscallsTest, SeccompFilterDoesNotSeeTheCallsAndStaysInForce) {
  TestChild child = TestChild::Fork([] {
    // Kills at any getpid.
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{4, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) _exit(9);
    Say("ready");
    AwaitLine();
    Say("went on");
    AwaitLine();
    syscall(SYS_getpid);
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  {
    Driven driven(child);
    ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
    EXPECT_EQ(*driven.calls->Raw(SYS_getpid, {}), child.pid());
  }
  child.WriteLine("go");
  EXPECT_EQ(child.ReadLine(), "went on");
  child.WriteLine("now the forbidden call");
  const int status = child.Wait();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
}

TEST(RemoteSyscallsTest, StrictSeccompIsNoObstacle) {
  TestChild child = TestChild::Fork([] {
    Say("ready");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) syscall(SYS_exit, 9);
    AwaitLine();
    Say("went on");
    syscall(SYS_exit, 0);
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  ASSERT_TRUE(Eventually([&] { return StatusField(child.pid(), "Seccomp") == "1"; }));
  {
    Driven driven(child);
    ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
    EXPECT_EQ(*driven.calls->Raw(SYS_getpid, {}), child.pid());
  }
  child.WriteLine("go");
  EXPECT_EQ(child.ReadLine(), "went on");
  EXPECT_EQ(child.Wait(), 0);
}

// Wine's way: every system call outside of a range becomes a SIGSYS.
TEST(RemoteSyscallsTest, UserDispatchIsSwitchedOffMeanwhileAndOnAgain) {
  constexpr int kSetUserDispatch = 59;  // PR_SET_SYSCALL_USER_DISPATCH
  constexpr int kGetUserDispatch = 0x4211;  // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
  static volatile char selector = 0;
  static volatile sig_atomic_t dispatched;
  TestChild child = TestChild::Fork([] {
    signal(SIGSYS, [](int) {
      selector = 0;
      dispatched = dispatched + 1;
    });
    if (prctl(kSetUserDispatch, 1, 0, 0, &selector) != 0) {
      Say("none");
      return;
    }
    Say("ready");
    selector = 1;  // SYSCALL_DISPATCH_FILTER_BLOCK
    for (long i = 0; i < 400'000'000; ++i) asm volatile("");
    const bool undisturbed = dispatched == 0;
    syscall(SYS_getpid);  // becomes a signal
    Say(undisturbed && dispatched == 1 ? "right" : "wrong");
  });
  const std::string answer = child.ReadLine();
  if (answer == "none") GTEST_SKIP() << "this kernel has no syscall user dispatch";
  ASSERT_EQ(answer, "ready");
  usleep(2000);
  for (int i = 0; i < 20; ++i) {
    Driven driven(child);
    ASSERT_TRUE(driven.calls.ok()) << driven.calls.status();
    uint64_t configuration[4];
    const bool can_switch = ptrace(static_cast<__ptrace_request>(kGetUserDispatch), child.pid(),
                                   sizeof configuration, configuration) == 0;
    const auto pid = driven.calls->Raw(SYS_getpid, {});
    if (can_switch) {
      ASSERT_TRUE(pid.ok()) << pid.status();
      EXPECT_EQ(*pid, child.pid());
    } else {  // Before Linux 6.4: an error that says so, and the target none the wiser.
      EXPECT_TRUE(absl::IsFailedPrecondition(pid.status())) << pid.status();
    }
    ASSERT_TRUE(driven.calls->End().ok());
  }
  EXPECT_EQ(child.ReadLine(), "right");
}

}  // namespace
}  // namespace incr
