#include "process/state_queries.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

struct KernelStack {  // stack_t
  uint64_t sp;
  int32_t flags;
  uint32_t padding;
  uint64_t size;
};

struct ThreadAnswers {
  KernelStack altstack;
  uint64_t clear_child_tid;
  int32_t parent_death_signal;
  uint32_t padding;
  char comm[16];
};

struct ProcessAnswers {
  KernelSigaction actions[64];
  itimerval timers[3];
  int32_t child_subreaper;
};

// The process's answers come first, then the threads', in order.
constexpr size_t ThreadOffset(size_t index) {
  return (sizeof(ProcessAnswers) + 63) / 64 * 64 + index * sizeof(ThreadAnswers);
}

RemoteCall Query(int64_t number, std::initializer_list<uint64_t> arguments) {
  RemoteCall call;
  call.number = number;
  std::copy(arguments.begin(), arguments.end(), call.arguments);
  return call;
}

// Calls whose answer is their result stand at fixed places.
enum ThreadCall { kAltstack, kTidAddress, kDeathSignal, kComm, kTimerSlack, kThreadCalls };
enum ProcessCall {
  kBrk = kThreadCalls,
  kDumpable,
  kSubreaper,
  kChildren,
  kTimers,
  kActions = kTimers + 3
};

std::vector<RemoteCall> ThreadQueries(size_t index) {
  const auto at = [index](size_t field) { return AnswerAt(ThreadOffset(index) + field); };
  return {
      Query(SYS_sigaltstack, {0, at(offsetof(ThreadAnswers, altstack))}),
      Query(SYS_prctl, {PR_GET_TID_ADDRESS, at(offsetof(ThreadAnswers, clear_child_tid))}),
      Query(SYS_prctl, {PR_GET_PDEATHSIG, at(offsetof(ThreadAnswers, parent_death_signal))}),
      Query(SYS_prctl, {PR_GET_NAME, at(offsetof(ThreadAnswers, comm))}),
      Query(SYS_prctl, {PR_GET_TIMERSLACK}),
  };
}

void AddProcessQueries(std::vector<RemoteCall>* calls) {
  calls->push_back(Query(SYS_brk, {0}));
  calls->push_back(Query(SYS_prctl, {PR_GET_DUMPABLE}));
  calls->push_back(Query(SYS_prctl, {PR_GET_CHILD_SUBREAPER,
                                     AnswerAt(offsetof(ProcessAnswers, child_subreaper))}));
  // It looks at the children of all threads, and reaps nothing. One file of /proc for each thread costs
  // 10 us.
  calls->push_back(Query(SYS_waitid, {P_ALL, 0, 0, WEXITED | WNOHANG | WNOWAIT | __WALL, 0}));
  for (uint64_t which = 0; which < 3; ++which) {
    calls->push_back(Query(SYS_getitimer, {which, AnswerAt(offsetof(ProcessAnswers, timers) +
                                                           which * sizeof(itimerval))}));
  }
  for (uint64_t signal = 1; signal <= 64; ++signal) {
    calls->push_back(Query(SYS_rt_sigaction,
                           {signal, 0, AnswerAt((signal - 1) * sizeof(KernelSigaction)), 8}));
  }
}

bool SaysNoChildren(const RemoteCall& call) {
  return call.number == SYS_waitid && call.result == -ECHILD;
}

int64_t Micros(const timeval& time) { return int64_t{time.tv_sec} * 1'000'000 + time.tv_usec; }

}  // namespace

size_t StateAnswerBytes(size_t threads) { return ThreadOffset(threads); }

std::vector<ThreadBatch> PlanStateQueries(const std::vector<pid_t>& tids) {
  std::vector<ThreadBatch> batches;
  for (size_t i = 0; i < tids.size(); ++i) batches.push_back({tids[i], ThreadQueries(i)});
  AddProcessQueries(&batches[0].calls);
  return batches;
}

absl::Status ReadStateAnswers(const std::vector<ThreadBatch>& batches, const std::string& answers,
                              FrozenState* state) {
  for (const ThreadBatch& batch : batches) {
    for (const RemoteCall& call : batch.calls) {
      if (call.result < 0 && call.result >= -4095 && !SaysNoChildren(call)) {
        return ErrnoStatus(static_cast<int>(-call.result),
                           absl::StrCat("system call ", call.number, "(", call.arguments[0],
                                        ", ...) in thread ", batch.tid));
      }
    }
  }
  INCR_CHECK(answers.size() >= StateAnswerBytes(batches.size()));
  INCR_CHECK(state->threads.size() == batches.size());
  for (size_t i = 0; i < batches.size(); ++i) {
    ThreadAnswers answer;
    std::memcpy(&answer, answers.data() + ThreadOffset(i), sizeof answer);
    ThreadState& thread = state->threads[i];
    INCR_CHECK(thread.tid == batches[i].tid);
    thread.comm.assign(answer.comm, strnlen(answer.comm, sizeof answer.comm));
    thread.altstack_sp = answer.altstack.sp;
    thread.altstack_size = answer.altstack.size;
    thread.altstack_flags = static_cast<uint32_t>(answer.altstack.flags);
    thread.clear_child_tid = answer.clear_child_tid;
    thread.parent_death_signal = static_cast<uint32_t>(answer.parent_death_signal);
    thread.timer_slack_ns = static_cast<uint64_t>(batches[i].calls[kTimerSlack].result);
  }
  ProcessAnswers answer;
  std::memcpy(&answer, answers.data(), sizeof answer);
  SharedState& shared = state->shared;
  std::memcpy(shared.actions, answer.actions, sizeof shared.actions);
  shared.brk = static_cast<uint64_t>(batches[0].calls[kBrk].result);
  shared.dumpable = static_cast<uint32_t>(batches[0].calls[kDumpable].result);
  shared.may_have_children = !SaysNoChildren(batches[0].calls[kChildren]);
  shared.child_subreaper = answer.child_subreaper != 0;
  for (int which = 0; which < 3; ++which) {
    shared.interval_timers[which] = {Micros(answer.timers[which].it_value),
                                     Micros(answer.timers[which].it_interval)};
  }
  return absl::OkStatus();
}

}  // namespace incr
