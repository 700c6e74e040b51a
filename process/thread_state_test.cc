#include "process/thread_state.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "process/frozen_process.h"
#include "process/kernel_abi.h"
#include "process/memory_map.h"
#include "process/remote_batch.h"
#include "process/test_child.h"

namespace incr {
namespace {

FrozenState MustCapture(FrozenProcess& frozen, BatchMode mode = BatchMode::kFastIfAllowed) {
  auto state = CaptureOuterState(frozen);
  EXPECT_TRUE(state.ok()) << state.status();
  if (!state.ok()) return {};
  absl::Status rest = CaptureInjectedState(frozen, mode, &*state);
  if (rest.ok()) rest = CapturePendingSignals(frozen, &*state);
  EXPECT_TRUE(rest.ok()) << rest;
  return *std::move(state);
}

void ExpectSame(const FrozenState& a, const FrozenState& b) {
  EXPECT_EQ(std::memcmp(a.shared.actions, b.shared.actions, sizeof a.shared.actions), 0);
  EXPECT_EQ(a.shared.brk, b.shared.brk);
  EXPECT_EQ(a.shared.child_subreaper, b.shared.child_subreaper);
  EXPECT_EQ(a.shared.dumpable, b.shared.dumpable);
  // Timers run on in a freeze: `b`, captured later, may have one more.
  for (const std::string& signal : a.shared.pending_signals) {
    EXPECT_THAT(b.shared.pending_signals, testing::Contains(signal));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(a.shared.interval_timers[i].interval_us, b.shared.interval_timers[i].interval_us);
  }
  ASSERT_EQ(a.threads.size(), b.threads.size());
  for (size_t i = 0; i < a.threads.size(); ++i) {
    const ThreadState &x = a.threads[i], &y = b.threads[i];
    EXPECT_EQ(x.tid, y.tid);
    EXPECT_EQ(x.comm, y.comm);
    EXPECT_EQ(std::memcmp(&x.registers, &y.registers, sizeof x.registers), 0) << x.tid;
    EXPECT_EQ(x.xstate, y.xstate);
    EXPECT_EQ(x.signal_mask, y.signal_mask);
    EXPECT_EQ(x.pending_signals, y.pending_signals);
    EXPECT_EQ(x.altstack_sp, y.altstack_sp);
    EXPECT_EQ(x.altstack_size, y.altstack_size);
    EXPECT_EQ(x.altstack_flags, y.altstack_flags);
    EXPECT_EQ(x.clear_child_tid, y.clear_child_tid);
    EXPECT_EQ(x.robust_list, y.robust_list);
    EXPECT_EQ(x.rseq, y.rseq);
    EXPECT_EQ(x.parent_death_signal, y.parent_death_signal);
    EXPECT_EQ(x.timer_slack_ns, y.timer_slack_ns);
  }
}

// One freeze as a checkpoint makes it.
absl::Status FreezeCaptureThaw(const ProcessHandle& process, int64_t* frozen_us = nullptr) {
  const Stopwatch watch;
  auto frozen = FrozenProcess::Freeze(process);
  INCR_RETURN_IF_ERROR(frozen.status());
  auto state = CaptureOuterState(*frozen);
  INCR_RETURN_IF_ERROR(state.status());
  INCR_RETURN_IF_ERROR(CaptureInjectedState(*frozen, InjectionPlan(), &*state));
  INCR_RETURN_IF_ERROR(CapturePendingSignals(*frozen, &*state));
  INCR_RETURN_IF_ERROR((*std::move(frozen)).Thaw());
  if (frozen_us != nullptr) *frozen_us = watch.elapsed_us();
  return absl::OkStatus();
}

void ExpectEndsWell(TestChild& child) {
  child.CloseInput();
  const std::string line = child.ReadLine();
  EXPECT_EQ(line.substr(0, 3), "ok ") << line;
  const int status = child.Wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(ThreadStateTest, NoChildrenIsSaidOfNobodyWhoHasSome) {
  TestChild childless = TestChild::Fork([] { pause(); });
  // Of another thread, and telling nobody of its end: an ordinary wait does not see it.
  TestChild parent = TestChild::Fork([] {
    std::thread([] {
      if (syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
      }
      Say("ready");
      for (;;) pause();
    }).detach();
    pause();
  });
  ASSERT_EQ(parent.ReadLine(), "ready");
  for (const BatchMode mode : {BatchMode::kFastIfAllowed, BatchMode::kCallByCall}) {
    for (const TestChild* child : {&childless, &parent}) {
      auto frozen = FrozenProcess::Freeze(child->handle());
      ASSERT_TRUE(frozen.ok()) << frozen.status();
      EXPECT_EQ(MustCapture(*frozen, mode).shared.may_have_children, child == &parent);
    }
  }
}

TEST(ThreadStateTest, BlockedCallsNoticeNothingOfAThousandFreezes) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_blocked"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 1000; ++i) {
    const absl::Status status = FreezeCaptureThaw(child.handle());
    ASSERT_TRUE(status.ok()) << status;
    usleep(i % 7 * 500);
  }
  ExpectEndsWell(child);
}

TEST(ThreadStateTest, RegistersAndTimersSurviveAThousandFreezes) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_verify", "2"});
  ASSERT_EQ(child.ReadLine(), "ready");
  const std::string ignored = StatusField(child.pid(), "SigIgn");
  for (int i = 0; i < 1000; ++i) {
    const absl::Status status = FreezeCaptureThaw(child.handle());
    ASSERT_TRUE(status.ok()) << status;
    usleep(i % 5 * 300);
  }
  EXPECT_EQ(StatusField(child.pid(), "SigIgn"), ignored);  // SIGTRAP is still ignored
  ExpectEndsWell(child);
}

TEST(ThreadStateTest, BothWaysOfAskingFindTheSame) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_verify"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 20; ++i) {
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    const FrozenState plain = MustCapture(*frozen, BatchMode::kCallByCall);
    const FrozenState fast = MustCapture(*frozen, BatchMode::kFastIfAllowed);
    ExpectSame(plain, fast);
    ArmFaultPoints("process.exec_scratch=error");
    const FrozenState forced = MustCapture(*frozen, BatchMode::kFastIfAllowed);
    ArmFaultPoints("");
    ExpectSame(plain, forced);
    ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
  }
  ExpectEndsWell(child);
}

TEST(ThreadStateTest, CaptureLeavesNoMappingBehind) {
  TestChild child = TestChild::Fork([] { AwaitLine(); });
  const auto before = ReadWholeFile(child.handle().ProcPath("maps"));
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  (void)MustCapture(*frozen);
  (void)MustCapture(*frozen, BatchMode::kCallByCall);
  EXPECT_EQ(*ReadWholeFile(child.handle().ProcPath("maps")), *before);
}

constexpr uint32_t kSlackNs = 71'000;


TEST(ThreadStateTest, EveryFieldIsWhatTheProgramSet) {
  static char altstack[32768];
  static int tid_word;
  TestChild child = TestChild::Fork([] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART | SA_NODEFER;
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(SIGUSR1, &action, nullptr);
    signal(SIGPIPE, SIG_IGN);
    const stack_t stack{altstack, 0, sizeof altstack};
    sigaltstack(&stack, nullptr);
    syscall(SYS_set_tid_address, &tid_word);
    prctl(PR_SET_NAME, "frozen (x) y");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, kSlackNs);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    const itimerval timer{{7, 0}, {1000, 0}};
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
    setpriority(PRIO_PROCESS, 0, 5);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigaddset(&blocked, SIGRTMIN);
    sigprocmask(SIG_SETMASK, &blocked, nullptr);
    sigval value;
    for (value.sival_int = 1; value.sival_int <= 100; ++value.sival_int) {
      sigqueue(getpid(), SIGRTMIN, value);
    }
    syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2);
    Say(absl::StrCat(reinterpret_cast<uint64_t>(sbrk(0))));
    AwaitLine();
  });
  const std::string brk = child.ReadLine();
  ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'S'; }));
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  const FrozenState state = MustCapture(*frozen);
  ASSERT_EQ(state.threads.size(), 1);
  const ThreadState& thread = state.threads[0];
  const SharedState& shared = state.shared;
  EXPECT_EQ(thread.tid, child.pid());
  EXPECT_EQ(thread.comm, "frozen (x) y");
  EXPECT_EQ(thread.altstack_sp, reinterpret_cast<uint64_t>(altstack));
  EXPECT_EQ(thread.altstack_size, sizeof altstack);
  EXPECT_EQ(thread.clear_child_tid, reinterpret_cast<uint64_t>(&tid_word));
  EXPECT_EQ(thread.parent_death_signal, SIGKILL);
  EXPECT_EQ(thread.timer_slack_ns, kSlackNs);
  EXPECT_EQ(thread.nice, 5);
  EXPECT_EQ(thread.sched_policy, static_cast<uint32_t>(SCHED_OTHER));
  EXPECT_GE(thread.cpu_affinity.size(), 8u);
  EXPECT_NE(thread.robust_list, 0u);
  EXPECT_EQ(thread.robust_list_size, 24u);
  EXPECT_NE(thread.rseq, 0u);
  EXPECT_EQ(thread.rseq_signature, 0x53053053u);
  EXPECT_EQ(thread.signal_mask, (1ull << (SIGUSR2 - 1)) | (1ull << (SIGRTMIN - 1)));
  EXPECT_GT(thread.xstate.size(), 512u);
  EXPECT_EQ(thread.registers.orig_rax, static_cast<uint64_t>(SYS_read));
  EXPECT_EQ(static_cast<int64_t>(thread.registers.rax), -512);

  ASSERT_EQ(thread.pending_signals.size(), 1);
  siginfo_t info;
  std::memcpy(&info, thread.pending_signals[0].data(), sizeof info);
  EXPECT_EQ(info.si_signo, SIGUSR2);
  ASSERT_EQ(shared.pending_signals.size(), 100);
  for (int i = 0; i < 100; ++i) {
    std::memcpy(&info, shared.pending_signals[i].data(), sizeof info);
    EXPECT_EQ(info.si_signo, SIGRTMIN);
    EXPECT_EQ(info.si_value.sival_int, i + 1);
  }

  const KernelSigaction& action = shared.actions[SIGUSR1 - 1];
  EXPECT_GT(action.handler, 1u);
  EXPECT_EQ(action.flags & (SA_RESTART | SA_NODEFER), static_cast<uint64_t>(SA_RESTART | SA_NODEFER));
  EXPECT_EQ(action.mask, 1ull << (SIGHUP - 1));
  EXPECT_NE(action.restorer, 0u);
  EXPECT_EQ(shared.actions[SIGPIPE - 1].handler, 1u);
  EXPECT_EQ(shared.actions[SIGKILL - 1].handler, 0u);
  EXPECT_EQ(absl::StrCat(shared.brk), brk);
  EXPECT_EQ(shared.interval_timers[ITIMER_VIRTUAL].interval_us, 7'000'000);
  EXPECT_GT(shared.interval_timers[ITIMER_VIRTUAL].value_us, 900'000'000);
  EXPECT_EQ(shared.interval_timers[ITIMER_REAL].value_us, 0);
  EXPECT_TRUE(shared.child_subreaper);
  EXPECT_EQ(shared.dumpable, 1u);
  EXPECT_FALSE(shared.has_posix_timers);
}

TEST(ThreadStateTest, MaskInsideSigsuspendIsTheOneThatComesBack) {
  TestChild child = TestChild::Fork([] {
    signal(SIGUSR1, [](int) {});
    sigset_t blocked, none;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_SETMASK, &blocked, nullptr);
    Say("ready");
    sigsuspend(&none);
    sigset_t after;
    sigprocmask(SIG_SETMASK, nullptr, &after);
    Say(sigismember(&after, SIGUSR1) ? "blocked" : "open");
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'S'; }));
  {
    auto frozen = FrozenProcess::Freeze(child.handle());
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    const FrozenState state = MustCapture(*frozen);
    EXPECT_EQ(state.threads[0].signal_mask, 1ull << (SIGUSR1 - 1));
    // Arrives while everything is blocked by the injection's leftovers, were there any.
    ASSERT_TRUE(child.handle().SendSignal(SIGUSR1).ok());
  }
  EXPECT_EQ(child.ReadLine(), "blocked");
}

TEST(ThreadStateTest, PosixTimersAreSeen) {
  TestChild child = TestChild::Fork([] {
    timer_t timer;
    sigevent event{};
    event.sigev_notify = SIGEV_NONE;
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    Say("ready");
    AwaitLine();
  });
  ASSERT_EQ(child.ReadLine(), "ready");
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  EXPECT_TRUE(MustCapture(*frozen).shared.has_posix_timers);
}

TEST(ThreadStateTest, KilledInMidCaptureIsNotFoundAndNoHang) {
  for (int i = 0; i < 60; ++i) {
    TestChild child = TestChild::Exec({"testdata/targets/frz_verify", "3"});
    ASSERT_EQ(child.ReadLine(), "ready");
    std::thread killer([&] {
      usleep(i * 20);
      (void)child.handle().SendSignal(SIGKILL);
    });
    absl::Status status;
    while (status.ok()) status = FreezeCaptureThaw(child.handle());
    killer.join();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    const int exit_status = child.Wait();
    EXPECT_TRUE(WIFSIGNALED(exit_status) && WTERMSIG(exit_status) == SIGKILL) << exit_status;
  }
}

// A tracer of its own, which freezes and captures `pid` once with a fault armed.
TestChild TracerWithFault(pid_t pid, const std::string& fault) {
  return TestChild::Fork([pid, fault] {
    const auto process = ProcessHandle::Open(pid);
    ArmFaultPoints(fault);
    Say("starts");
    Say(std::string(FreezeCaptureThaw(*process).ToString()));
  });
}

TEST(ThreadStateTest, ProgramGoesOnUnharmedWhenTheTracerIsKilledInMidCapture) {
  for (const char* program : {"testdata/targets/frz_verify", "testdata/targets/frz_blocked"}) {
    TestChild child = TestChild::Exec({program});
    ASSERT_EQ(child.ReadLine(), "ready");
    const std::string blocked = StatusField(child.pid(), "SigBlk");
    for (int i = 0; i < 3; ++i) {
      TestChild tracer = TracerWithFault(child.pid(), "process.batch_running=kill");
      const int status = tracer.Wait();
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
      // After a second the code in the target gives up and puts everything back.
      ASSERT_TRUE(Eventually([&] { return StatusField(child.pid(), "SigBlk") == blocked; }));
      usleep(200'000);
    }
    EXPECT_TRUE(FreezeCaptureThaw(child.handle()).ok());
    ExpectEndsWell(child);
  }
}

TEST(ThreadStateTest, ErrorInMidCapturePutsEverythingBack) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_verify"});
  ASSERT_EQ(child.ReadLine(), "ready");
  const auto maps = ReadWholeFile(child.handle().ProcPath("maps"));
  ArmFaultPoints("process.batch_running=error");
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(FreezeCaptureThaw(child.handle()).ok());
  ArmFaultPoints("");
  EXPECT_EQ(*ReadWholeFile(child.handle().ProcPath("maps")), *maps);
  ExpectEndsWell(child);
}

// A tracer that got no CPU for over a second finds the threads gone on, and asks again.
TEST(ThreadStateTest, StarvedTracerAsksAgain) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_verify"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 3; ++i) {
    TestChild tracer = TracerWithFault(child.pid(), "process.batch_running=sleep:1");
    ASSERT_EQ(tracer.ReadLine(), "starts");
    usleep(100'000);  // it now sleeps for 200 ms
    ASSERT_TRUE(tracer.handle().SendSignal(SIGSTOP).ok());
    usleep(1'200'000);
    ASSERT_TRUE(tracer.handle().SendSignal(SIGCONT).ok());
    EXPECT_EQ(tracer.ReadLine(), "OK");
  }
  ExpectEndsWell(child);
}

// SIGSTOP and SIGCONT cannot be blocked: they come in the midst of injected calls.
TEST(ThreadStateTest, StopsInMidCaptureAreKept) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_verify", "2"});
  ASSERT_EQ(child.ReadLine(), "ready");
  for (int i = 0; i < 300; ++i) {
    std::thread stopper([&] {
      usleep(i % 30 * 10);
      (void)child.handle().SendSignal(SIGSTOP);
    });
    const absl::Status status = FreezeCaptureThaw(child.handle());
    stopper.join();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) == 'T'; })) << i;
    // Frozen while stopped, and let go in the middle.
    std::thread starter([&] {
      usleep(i % 30 * 10);
      (void)child.handle().SendSignal(SIGCONT);
    });
    const absl::Status again = FreezeCaptureThaw(child.handle());
    starter.join();
    ASSERT_TRUE(again.ok()) << again;
    ASSERT_TRUE(Eventually([&] { return StateOfThread(child.pid(), child.pid()) != 'T'; })) << i;
  }
  ExpectEndsWell(child);
}

TEST(ThreadStateTest, UserfaultfdBelongsToTheTargetAndLeavesNoDescriptorThere) {
  TestChild child = TestChild::Fork([] {
    void* memory = mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(memory, 1, 4 * kPageSize);
    Say(absl::StrCat(reinterpret_cast<uint64_t>(memory)));
    AwaitLine();
  });
  uint64_t address = 0;
  ASSERT_TRUE(absl::SimpleAtoi(child.ReadLine(), &address));
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  auto uffd = CreateRemoteUserfaultfd(*frozen, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  ASSERT_TRUE(uffd.ok()) << uffd.status();
  ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
  uffdio_register registration{};
  registration.range = {address, 4 * kPageSize};
  registration.mode = UFFDIO_REGISTER_MODE_WP;
  EXPECT_EQ(ioctl(uffd->get(), UFFDIO_REGISTER, &registration), 0) << strerror(errno);
  EXPECT_NE(StatusField(child.pid(), "State"), "");
  int descriptors = 0;
  for (int fd = 0; fd < 64; ++fd) {
    const auto link = ReadLink(child.handle().ProcPath(absl::StrCat("fd/", fd)));
    if (link.ok() && link->find("userfaultfd") != std::string::npos) ++descriptors;
  }
  EXPECT_EQ(descriptors, 0);

  auto again = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(CreateRemoteUserfaultfd(*again, uint64_t{1} << 62).ok());
}

// It would hear of no read(2) into an armed page, which would then fail in the target.
TEST(ThreadStateTest, AUserfaultfdForFaultsFromUserModeServesNobodyWhoMustAnswerThem) {
  if (geteuid() != 0) GTEST_SKIP() << "not root, nothing to give up";
  const auto allowed = ReadWholeFile("/proc/sys/vm/unprivileged_userfaultfd");
  if (!allowed.ok() || *allowed != "0\n") GTEST_SKIP() << "everybody may have a full userfaultfd here";
  TestChild child = TestChild::Fork([] {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) return;
    Say("unprivileged");
    AwaitLine();
  });
  ASSERT_EQ(child.ReadLine(), "unprivileged");
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  EXPECT_TRUE(absl::IsPermissionDenied(
      CreateRemoteUserfaultfd(*frozen, UFFD_FEATURE_PAGEFAULT_FLAG_WP).status()));
  EXPECT_TRUE(CreateRemoteUserfaultfd(*frozen, 0).ok());
}

int64_t Median(std::vector<int64_t> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Not a promise but numbers: what a freeze costs. The bound only catches the absurd.
TEST(ThreadStateTest, TheScratchMemoryIsWhereItWasWanted) {
  TestChild child = TestChild::Exec({"testdata/targets/frz_sleepers", "3"});
  ASSERT_EQ(child.ReadLine(), "ready");
  auto frozen = FrozenProcess::Freeze(child.handle());
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  const auto before = ReadMaps(child.handle());
  ASSERT_TRUE(before.ok());
  auto state = CaptureOuterState(*frozen);
  ASSERT_TRUE(state.ok());
  const RemoteAddr wanted(MiddleOfWidestGap(*before));
  const absl::Status captured = CaptureInjectedState(*frozen, {.scratch = wanted}, &*state);
  ASSERT_TRUE(captured.ok()) << captured;
  EXPECT_EQ(state->scratch, wanted);
  const auto after = ReadMaps(child.handle());
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(*before, *after);
}

TEST(ThreadStateTest, ReportsItsTimes) {
  for (const char* threads : {"1", "8", "64"}) {
    TestChild child = TestChild::Exec({"testdata/targets/frz_sleepers", threads});
    ASSERT_EQ(child.ReadLine(), "ready");
    std::vector<int64_t> freeze, outer, injected, thaw, total;
    for (int i = 0; i < 200; ++i) {
      const int64_t t0 = MonotonicMicros();
      auto frozen = FrozenProcess::Freeze(child.handle());
      ASSERT_TRUE(frozen.ok());
      const int64_t t1 = MonotonicMicros();
      auto state = CaptureOuterState(*frozen);
      ASSERT_TRUE(state.ok());
      const int64_t t2 = MonotonicMicros();
      ASSERT_TRUE(CaptureInjectedState(*frozen, InjectionPlan(), &*state).ok());
      ASSERT_TRUE(CapturePendingSignals(*frozen, &*state).ok());
      const int64_t t3 = MonotonicMicros();
      ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
      const int64_t t4 = MonotonicMicros();
      freeze.push_back(t1 - t0), outer.push_back(t2 - t1), injected.push_back(t3 - t2);
      thaw.push_back(t4 - t3), total.push_back(t4 - t0);
    }
    std::printf("%2s threads, medians in us: freeze %ld, injected %ld, outer %ld, thaw %ld; "
                "in all %ld (best %ld, worst %ld)\n",
                threads, Median(freeze), Median(injected), Median(outer), Median(thaw),
                Median(total), *std::min_element(total.begin(), total.end()),
                *std::max_element(total.begin(), total.end()));
    EXPECT_LT(Median(total), 100'000);
  }
}

}  // namespace
}  // namespace incr
