#include "process/frozen_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "process/registers.h"
#include "process/test_child.h"

namespace incr {
namespace {

char LeaderState(const TestChild& child) { return StateOfThread(child.pid(), child.pid()); }

void ExpectEndsWell(TestChild& child) {
  child.CloseInput();
  const std::string line = child.ReadLine();
  EXPECT_EQ(line.substr(0, 2), "ok") << line;
  const int status = child.Wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(FreezeTest, EveryThreadStandsStillWhileThreadsAreBornAndDie) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_churn", "8"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 200; ++i) {
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    std::vector<pid_t> listed = ListedThreads(child.pid());
    std::vector<pid_t> tids = frozen->tids();
    EXPECT_EQ(tids[0], child.pid());
    EXPECT_TRUE(std::is_sorted(tids.begin() + 1, tids.end()));
    std::sort(listed.begin(), listed.end());
    std::sort(tids.begin(), tids.end());
    ASSERT_EQ(listed, tids);
    for (const pid_t tid : tids) ASSERT_EQ(StateOfThread(child.pid(), tid), 't') << tid;
    ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
    usleep(i % 4 * 200);
  }
  ExpectEndsWell(child);
}

TEST(FreezeTest, ExecInMidFreezeIsSurvived) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_exec", "60", "first"});
  ASSERT_EQ(child.ReadLine(), "ready");
  std::atomic<bool> ended{false};
  std::thread reader([&] {
    EXPECT_EQ(child.ReadLine(), "ok");
    ended = true;
  });
  int frozen_times = 0;
  while (!ended) {
    const Stopwatch watch;
    auto frozen = FrozenProcess::Freeze(child.handle());
    EXPECT_TRUE(frozen.ok()) << frozen.status();
    EXPECT_LT(watch.elapsed_us(), 8'000'000);
    if (frozen.ok()) {
      ++frozen_times;
      for (const pid_t tid : frozen->tids()) {
        EXPECT_EQ(StateOfThread(child.pid(), tid), 't') << tid;
      }
    }
    usleep(frozen_times % 16 * 100);
  }
  reader.join();
  EXPECT_GT(frozen_times, 10);
}

TEST(FreezeTest, ChildrenOfTheTargetStayFree) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_forks"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 300; ++i) {
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    const auto children = ListChildren(child.handle());
    ASSERT_TRUE(children.ok()) << children.status();
    for (const pid_t grandchild : *children) {
      const std::string tracer = StatusField(grandchild, "TracerPid");
      EXPECT_TRUE(tracer == "0" || tracer.empty()) << grandchild << " traced by " << tracer;
    }
    ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
    usleep(i % 4 * 200);
  }
  ExpectEndsWell(child);
}

// Every signal sent is handled once, whatever moment a freeze hits.
TEST(FreezeTest, NoSignalIsLostOrDoubled) {
  constexpr int kSignals = 20'000;
  static std::atomic<int> next_value, out_of_order;
  TestChild child = TestChild::Fork([] {
    struct sigaction action {};
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
      if (info->si_value.sival_int != next_value) ++out_of_order;
      ++next_value;
    };
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGRTMIN + 1, &action, nullptr);
    Say("ready");
    while (next_value < kSignals) {
      if (next_value % 2 == 0) usleep(50);
    }
    Say(absl::StrCat("ok ", out_of_order.load()));
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  std::atomic<bool> sent_all{false};
  std::thread sender([&] {
    for (int i = 0; i < kSignals; ++i) {
      sigval value;
      value.sival_int = i;
      while (sigqueue(child.pid(), SIGRTMIN + 1, value) != 0) usleep(200);  // queue full
    }
    sent_all = true;
  });
  while (!sent_all) {
    auto frozen = FrozenProcess::Freeze(child.handle());
    EXPECT_TRUE(frozen.ok()) << frozen.status();
    if (!frozen.ok()) break;
  }
  sender.join();
  EXPECT_EQ(child.ReadLine(), "ok 0");
}

TEST(FreezeTest, PendingSignalsStayPending) {
  TestChild child = TestChild::Fork([] {
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_SETMASK, &blocked, nullptr);
    raise(SIGUSR1);
    Say("ready");
    AwaitLine();
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  const std::string pending = StatusField(child.pid(), "SigPnd");
  ASSERT_NE(pending, "0000000000000000");
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(FrozenProcess::Freeze(child.handle()).ok());
  EXPECT_EQ(StatusField(child.pid(), "SigPnd"), pending);
}

TEST(FreezeTest, StoppedProcessStaysStoppedUntilSigcont) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_sleepers", "4"});
  ASSERT_EQ(child.ReadLine(), "ready");
  ASSERT_TRUE(child.handle().SendSignal(SIGSTOP).ok());
  ASSERT_TRUE(Eventually([&] { return LeaderState(child) == 'T'; }));
  for (int i = 0; i < 50; ++i) {
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    EXPECT_TRUE(frozen->was_group_stopped());
    for (const pid_t tid : frozen->tids()) ASSERT_EQ(StateOfThread(child.pid(), tid), 't');
    ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
    ASSERT_TRUE(Eventually([&] {
      const auto tids = ListedThreads(child.pid());
      return std::all_of(tids.begin(), tids.end(),
                         [&](pid_t tid) { return StateOfThread(child.pid(), tid) == 'T'; });
    }));
  }
  ASSERT_TRUE(child.handle().SendSignal(SIGCONT).ok());
  EXPECT_TRUE(Eventually([&] { return LeaderState(child) == 'S'; }));
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok());
  EXPECT_FALSE(frozen->was_group_stopped());
}

TEST(FreezeTest, SigcontAndSigstopWhileFrozenTakeEffectAtTheThaw) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_sleepers", "3"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 20; ++i) {
    {
      auto frozen = FrozenProcess::Freeze(child.handle());
      ASSERT_TRUE(frozen.ok()) << frozen.status();
      ASSERT_TRUE(child.handle().SendSignal(SIGSTOP).ok());
      EXPECT_EQ(LeaderState(child), 't');
    }
    ASSERT_TRUE(Eventually([&] { return LeaderState(child) == 'T'; }));
    {
      auto frozen = FrozenProcess::Freeze(child.handle());
      ASSERT_TRUE(frozen.ok()) << frozen.status();
      ASSERT_TRUE(child.handle().SendSignal(SIGCONT).ok());
      EXPECT_EQ(LeaderState(child), 't');
    }
    ASSERT_TRUE(Eventually([&] { return LeaderState(child) == 'S'; }));
  }
}

TEST(FreezeTest, TheParentSeesNoStopOfOurs) {
  TestChild child = TestChild::Fork([] {
    // A parent that watches its child for stops, like a shell.
    const pid_t job = fork();
    if (job == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) pause();
    }
    Say(absl::StrCat(job));
    int status = 0;
    const pid_t seen = waitpid(job, &status, WUNTRACED | WCONTINUED);
    Say(absl::StrCat(seen == job, " ", status));
  });
  pid_t job = 0;
  ASSERT_TRUE(absl::SimpleAtoi(child.ReadLine(), &job));
  const auto handle = ProcessHandle::Open(job);
  ASSERT_TRUE(handle.ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(FrozenProcess::Freeze(*handle).ok());
  ASSERT_TRUE(handle->SendSignal(SIGTERM).ok());
  EXPECT_EQ(child.ReadLine(), absl::StrCat("1 ", static_cast<int>(SIGTERM)));
}

// Killed while we hold it: its real parent must learn of it, at the thaw at the latest.
TEST(FreezeTest, KilledWhileFrozenIsReportedToItsParent) {
  TestChild child = TestChild::Fork([] {
    const pid_t job = fork();
    if (job == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::thread([] {
        for (;;) pause();
      }).detach();
      Say(absl::StrCat(getpid()));
      for (;;) pause();
    }
    int status = 0;
    waitpid(job, &status, 0);
    Say(absl::StrCat("ended ", status));
  });
  pid_t job = 0;
  ASSERT_TRUE(absl::SimpleAtoi(child.ReadLine(), &job));
  const auto handle = ProcessHandle::Open(job);
  ASSERT_TRUE(handle.ok());
  auto frozen = FrozenProcess::Freeze(*handle);
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  ASSERT_TRUE(handle->SendSignal(SIGKILL).ok());
  const Stopwatch watch;
  EXPECT_TRUE((*std::move(frozen)).Thaw().ok());
  EXPECT_EQ(child.ReadLine(), absl::StrCat("ended ", SIGKILL));
  EXPECT_LT(watch.elapsed_us(), 1'500'000);
}

TEST(FreezeTest, KilledInMidFreezeIsNotFound) {
  for (int i = 0; i < 40; ++i) {
    TestChild child = TestChild::Exec({"testdata/targets/frz_churn", "4"});
    ASSERT_EQ(child.ReadLine(), "ready");
    std::thread killer([&] {
      usleep(500 + i * 37);
      (void)child.handle().SendSignal(SIGKILL);
    });
    absl::Status status;
    const Stopwatch watch;
    while (status.ok()) status = FrozenProcess::Freeze(child.handle()).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    killer.join();
    const int exit_status = child.Wait();
    EXPECT_TRUE(WIFSIGNALED(exit_status) && WTERMSIG(exit_status) == SIGKILL) << exit_status;
    EXPECT_LT(watch.elapsed_us(), 1'500'000) << i;
  }
}

TEST(FreezeTest, TracedBySomeoneElseIsRefusedAndLeftAlone) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_sleepers", "3"});
  ASSERT_EQ(child.ReadLine(), "ready");
  // Only the last thread is traced: the ones seized before must be let go again.
  const std::vector<pid_t> tids = ListedThreads(child.pid());
  TestChild tracer = TestChild::Fork([&] {
    Say(ptrace(PTRACE_SEIZE, tids.back(), 0, 0) == 0 ? "traced" : strerror(errno));
    AwaitLine();
  });
  ASSERT_EQ(tracer.ReadLine(), "traced");
  const absl::Status status = FrozenProcess::Freeze(child.handle()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find(absl::StrCat("pid ", tracer.pid())), std::string::npos) << status;
  EXPECT_EQ(StatusField(child.pid(), "TracerPid"), "0");
  EXPECT_TRUE(Eventually([&] { return LeaderState(child) == 'S'; }));
  tracer.CloseInput();
  tracer.Wait();
  EXPECT_TRUE(FrozenProcess::Freeze(child.handle()).ok());
}

TEST(FreezeTest, VforkParentIsABoundedErrorAndGoesOn) {
  TestChild child = TestChild::Fork([] {
    const pid_t pid = vfork();
    if (pid == 0) {
      Say("in vfork");
      AwaitLine();
      _exit(0);
    }
    waitpid(pid, nullptr, 0);
    Say("parent went on");
  });
  ASSERT_EQ(child.ReadLine(), "in vfork");
  // What was not stopped is let go when the tracing thread exits.
  std::thread([&] {
    const Stopwatch watch;
    const absl::Status status = FrozenProcess::Freeze(child.handle(), 200'000).status();
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_NE(status.message().find(absl::StrCat("thread ", child.pid())), std::string::npos);
    EXPECT_LT(watch.elapsed_us(), 3'000'000);
  }).join();
  child.WriteLine("go");
  EXPECT_EQ(child.ReadLine(), "parent went on");
  EXPECT_EQ(child.Wait(), 0);
}

TEST(FreezeTest, ThawAlsoLetsGoOfAThreadThatSomebodyResumed) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_sleepers", "2"});
  ASSERT_EQ(child.ReadLine(), "ready");
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  ASSERT_EQ(ptrace(PTRACE_CONT, frozen->tids()[1], 0, 0), 0);
  const absl::Status status = (*std::move(frozen)).Thaw();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(StatusField(child.pid(), "TracerPid"), "0");
  EXPECT_TRUE(FrozenProcess::Freeze(child.handle()).ok());
}

TEST(FreezeTest, LostMainThreadIsRefused) {
  TestChild child = TestChild::Fork([] {
    std::thread([] {
      AwaitLine();
      Say("went on");
      _exit(0);
    }).detach();
    syscall(SYS_exit, 0);  // pthread_exit would unwind the test
  });
  ASSERT_TRUE(Eventually([&] { return LeaderState(child) == 'Z'; }));
  const absl::Status status = FrozenProcess::Freeze(child.handle()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  child.WriteLine("go");
  EXPECT_EQ(child.ReadLine(), "went on");
}

// Spins inside a restartable sequence nearly all the time; one that was frozen inside must abort.
struct Rseq {
  uint32_t cpu_id_start, cpu_id;
  uint64_t rseq_cs;
  uint32_t flags;
};

asm(R"(
  .pushsection .text
  .globl frz_rseq_start, frz_rseq_commit, frz_rseq_abort
  .p2align 4
frz_rseq_loop:           # rdi: the struct rseq, rsi: descriptor, rdx: aborts
1:
  movq %rsi, 8(%rdi)
frz_rseq_start:
  movl $20000000, %ecx
2: decl %ecx
  jnz 2b
frz_rseq_commit:
  jmp 1b
  .byte 0x0f, 0xb9, 0x3d # ud1 with the signature as its operand, as rseq(2) wants it
  .long 0x53053053
frz_rseq_abort:
  incq (%rdx)
  jmp 1b
  .popsection
)");
extern "C" const char frz_rseq_start[], frz_rseq_commit[], frz_rseq_abort[];
extern "C" const ptrdiff_t __rseq_offset;

TEST(FreezeTest, ThreadInsideARestartableSequenceGoesOnAtItsAbortHandler) {
  static struct alignas(32) {
    uint32_t version, flags;
    uint64_t start_ip, post_commit_offset, abort_ip;
  } section{0, 0, reinterpret_cast<uint64_t>(frz_rseq_start),
            static_cast<uint64_t>(frz_rseq_commit - frz_rseq_start),
            reinterpret_cast<uint64_t>(frz_rseq_abort)};
  TestChild child = TestChild::Fork([] {
    Say("ready");
    static uint64_t aborts;
    char* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    asm volatile("jmp frz_rseq_loop" : : "D"(area), "S"(&section), "d"(&aborts));
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  int at_abort = 0, inside = 0;
  for (int i = 0; i < 100; ++i) {
    usleep(500);
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    const uint64_t rip = GetRegisters(child.pid())->rip;
    at_abort += rip == section.abort_ip;
    inside += rip - section.start_ip < section.post_commit_offset;
  }
  EXPECT_EQ(inside, 0);
  EXPECT_GT(at_abort, 50);
}

}  // namespace
}  // namespace incr
