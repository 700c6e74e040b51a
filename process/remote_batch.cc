#include "process/remote_batch.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "process/registers.h"
#include "process/remote_memory.h"
#include "process/remote_syscalls.h"
#include "process/tracee_stop.h"

// The code that runs in the target, one copy per thread, since its data stand behind it and are
// addressed by rip. It uses no stack. In ppoll it waits for us to take over; ppoll because, unlike
// nanosleep, it leaves the thread's restart_block alone, which the interrupted call needs. If
// nobody comes for a second then we have died, and it puts flags, mask and registers back.
asm(R"(
  .pushsection .rodata
  .globl incr_batch_code, incr_batch_data
  .p2align 4
incr_batch_code:
  movq incr_batch_table(%rip), %rbx
  movq incr_batch_count(%rip), %r12
1:
  movq 0(%rbx), %rax
  movq 8(%rbx), %rdi
  movq 16(%rbx), %rsi
  movq 24(%rbx), %rdx
  movq 32(%rbx), %r10
  movq 40(%rbx), %r8
  movq 48(%rbx), %r9
  syscall
  movq %rax, 56(%rbx)
  addq $64, %rbx
  decq %r12
  jnz 1b
  movq $1, incr_batch_flag(%rip)
  movl $271, %eax                      # ppoll(nullptr, 0, &timeout, nullptr, 8)
  xorl %edi, %edi
  xorl %esi, %esi
  leaq incr_batch_timeout(%rip), %rdx
  xorl %r10d, %r10d
  movl $8, %r8d
  syscall
  leaq incr_batch_eflags(%rip), %rsp   # all signals are still blocked
  popfq
  movq incr_batch_rsp(%rip), %rsp      # from here on nothing changes the flags
  movl $14, %eax                       # rt_sigprocmask(SIG_SETMASK, &mask, nullptr, 8)
  movl $2, %edi
  leaq incr_batch_mask(%rip), %rsi
  movl $0, %edx
  movl $8, %r10d
  syscall
  movq incr_batch_registers+0(%rip), %rax
  movq incr_batch_registers+8(%rip), %rbx
  movq incr_batch_registers+16(%rip), %rcx
  movq incr_batch_registers+24(%rip), %rdx
  movq incr_batch_registers+32(%rip), %rsi
  movq incr_batch_registers+40(%rip), %rdi
  movq incr_batch_registers+48(%rip), %rbp
  movq incr_batch_registers+56(%rip), %r8
  movq incr_batch_registers+64(%rip), %r9
  movq incr_batch_registers+72(%rip), %r10
  movq incr_batch_registers+80(%rip), %r11
  movq incr_batch_registers+88(%rip), %r12
  movq incr_batch_registers+96(%rip), %r13
  movq incr_batch_registers+104(%rip), %r14
  movq incr_batch_registers+112(%rip), %r15
  jmp *incr_batch_rip(%rip)
  .p2align 4
incr_batch_data:                       # struct BatchData
incr_batch_table: .quad 0
incr_batch_count: .quad 0
incr_batch_flag: .quad 0
incr_batch_timeout: .quad 1, 0
incr_batch_mask: .quad 0
incr_batch_eflags: .quad 0
incr_batch_rsp: .quad 0
incr_batch_rip: .quad 0
incr_batch_registers: .fill 15, 8, 0
  .popsection
)");
extern "C" const char incr_batch_code[], incr_batch_data[];

namespace incr {
namespace {

struct BatchData {  // behind the code
  uint64_t table, count, flag, timeout[2], mask, eflags, rsp, rip;
  uint64_t registers[15];  // rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15
};

constexpr int64_t kPatienceUs = 10'000'000;
// A thread that has not raised its flag by then was stopped (SIGSTOP) or waits for a CPU:
// interrupting it shows which.
constexpr int64_t kPollUs = 2'000;
constexpr uint64_t kSelfRestoreS = 1;
constexpr int kMaxAttempts = 5;
constexpr uint64_t kTrapFlag = 0x100;

constexpr uint64_t Align64(uint64_t n) { return (n + 63) / 64 * 64; }

// The scratch memory: a block of code and data per thread, the answers, a table per thread.
struct Layout {
  uint64_t data, block_size, answers, tables, size;  // `data` from the start of a block
};

Layout MakeLayout(size_t answer_bytes, const std::vector<ThreadBatch>& batches) {
  Layout layout;
  layout.data = incr_batch_data - incr_batch_code;
  layout.block_size = Align64(layout.data + sizeof(BatchData));
  layout.answers = layout.block_size * batches.size();
  layout.tables = layout.answers + Align64(answer_bytes);
  layout.size = layout.tables;
  for (const ThreadBatch& batch : batches) layout.size += batch.calls.size() * sizeof(RemoteCall);
  return layout;
}

// What the code needs to let the program go on without us.
void FillIn(const Registers& saved, uint64_t mask, BatchData* data) {
  const Registers r = RewindInterruptedCall(saved);
  data->timeout[0] = kSelfRestoreS;
  data->mask = mask;
  data->eflags = r.eflags & ~kTrapFlag;
  data->rsp = r.rsp;
  data->rip = r.rip;
  const uint64_t registers[] = {r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8,
                                r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  std::copy(std::begin(registers), std::end(registers), data->registers);
}

class BatchRun {
 public:
  BatchRun(std::vector<ThreadBatch>* batches, size_t answer_bytes, const RemoteMemory& memory,
           RemoteAddr instruction, RemoteAddr place)
      : batches_(*batches),
        answer_bytes_(answer_bytes),
        memory_(memory),
        instruction_(instruction),
        place_(place),
        layout_(MakeLayout(answer_bytes, *batches)) {}

  // `threads` in the order of the batches.
  absl::StatusOr<std::string> Run(std::vector<RemoteSyscalls>& threads, BatchMode mode);
  RemoteAddr scratch() const { return base_; }

 private:
  absl::StatusOr<RemoteScratch> MapScratch(RemoteSyscalls& leader, BatchMode* mode) const;
  absl::Status LeaveScratch(std::vector<RemoteSyscalls>& threads, RemoteScratch& scratch,
                            const absl::Status& error) const;
  absl::Status RunCallByCall(std::vector<RemoteSyscalls>& threads);
  absl::Status RunAtOnce(std::vector<RemoteSyscalls>& threads);
  absl::StatusOr<bool> FlagIsUp(size_t index) const;
  absl::Status AwaitFlags() const;
  absl::StatusOr<bool> Settle(RemoteSyscalls& thread, size_t index) const;
  RemoteCall Resolved(const RemoteCall& call) const;

  std::vector<ThreadBatch>& batches_;
  const size_t answer_bytes_;
  const RemoteMemory& memory_;
  const RemoteAddr instruction_, place_;
  const Layout layout_;
  RemoteAddr base_;
};

RemoteCall BatchRun::Resolved(const RemoteCall& call) const {
  RemoteCall resolved = call;
  for (uint64_t& argument : resolved.arguments) {
    if (argument >= kAnswersBase && argument < kAnswersBase + answer_bytes_) {
      argument = argument - kAnswersBase + (base_ + layout_.answers).value();
    }
  }
  return resolved;
}

// Lowers `mode` where executable memory is refused.
absl::StatusOr<RemoteScratch> BatchRun::MapScratch(RemoteSyscalls& leader, BatchMode* mode) const {
  constexpr int kData = PROT_READ | PROT_WRITE;
  if (!FaultPoint("process.exec_scratch").ok()) *mode = BatchMode::kCallByCall;
  if (*mode == BatchMode::kFastIfAllowed) {
    auto scratch =
        RemoteScratch::Map(&leader, &memory_, layout_.size, kData | PROT_EXEC, place_);
    if (scratch.ok() || absl::IsNotFound(scratch.status())) return scratch;
    *mode = BatchMode::kCallByCall;
  }
  return RemoteScratch::Map(&leader, &memory_, layout_.size, kData, place_);
}

absl::StatusOr<std::string> BatchRun::Run(std::vector<RemoteSyscalls>& threads, BatchMode mode) {
  INCR_ASSIGN_OR_RETURN(RemoteScratch scratch, MapScratch(threads[0], &mode));
  base_ = scratch.address();
  const absl::Status status =
      mode == BatchMode::kCallByCall ? RunCallByCall(threads) : RunAtOnce(threads);
  if (!status.ok()) {
    if (!absl::IsNotFound(status)) return LeaveScratch(threads, scratch, status);
    scratch.Abandon();  // a thread died, so all did
    return status;
  }
  std::string answers(answer_bytes_, '\0');
  INCR_RETURN_IF_ERROR(memory_.Read(base_ + layout_.answers, answers.data(), answers.size()));
  INCR_RETURN_IF_ERROR(scratch.Release());
  return answers;
}

// After an error: nobody may be in the code when it is unmapped, nor in a signal handler that
// returns to it, as a thread that went on by itself may be.
absl::Status BatchRun::LeaveScratch(std::vector<RemoteSyscalls>& threads, RemoteScratch& scratch,
                                    const absl::Status& error) const {
  bool deserted = !absl::IsAborted(error);
  for (RemoteSyscalls& thread : threads) {
    if (thread.running()) deserted = thread.PauseCode().ok() && deserted;
    deserted = thread.End().ok() && deserted;
  }
  if (!deserted) {
    scratch.Abandon();
    return error;
  }
  INCR_ASSIGN_OR_RETURN(RemoteSyscalls leader,
                        RemoteSyscalls::Begin(batches_[0].tid, instruction_));
  INCR_RETURN_IF_ERROR(scratch.ReleaseBy(leader));
  INCR_RETURN_IF_ERROR(leader.End());
  return error;
}

absl::Status BatchRun::RunCallByCall(std::vector<RemoteSyscalls>& threads) {
  for (size_t i = 0; i < threads.size(); ++i) {
    for (RemoteCall& call : batches_[i].calls) {
      std::array<uint64_t, 6> arguments;
      const RemoteCall resolved = Resolved(call);
      std::copy(resolved.arguments, resolved.arguments + 6, arguments.begin());
      INCR_ASSIGN_OR_RETURN(call.result, threads[i].Raw(call.number, arguments));
    }
  }
  return absl::OkStatus();
}

absl::Status BatchRun::RunAtOnce(std::vector<RemoteSyscalls>& threads) {
  std::string image(layout_.size, '\0');
  std::vector<uint64_t> tables;
  uint64_t at = layout_.tables;
  for (size_t i = 0; i < threads.size(); ++i) {
    BatchData data{};
    data.table = (base_ + at).value();
    data.count = batches_[i].calls.size();
    FillIn(threads[i].saved_registers(), threads[i].saved_signal_mask(), &data);
    char* block = image.data() + i * layout_.block_size;
    std::memcpy(block, incr_batch_code, layout_.data);
    std::memcpy(block + layout_.data, &data, sizeof data);
    tables.push_back(at);
    for (const RemoteCall& call : batches_[i].calls) {
      const RemoteCall resolved = Resolved(call);
      std::memcpy(image.data() + at, &resolved, sizeof resolved);
      at += sizeof resolved;
    }
  }
  INCR_RETURN_IF_ERROR(memory_.Write(base_, image.data(), image.size()));

  for (size_t i = 0; i < threads.size(); ++i) {
    INCR_CHECK(!batches_[i].calls.empty());
    INCR_RETURN_IF_ERROR(threads[i].StartCode(base_ + i * layout_.block_size, layout_.block_size));
  }
  INCR_RETURN_IF_ERROR(FaultPoint("process.batch_running"));
  INCR_RETURN_IF_ERROR(AwaitFlags());
  for (RemoteSyscalls& thread : threads) INCR_RETURN_IF_ERROR(thread.RequestPause());
  for (size_t i = 0; i < threads.size(); ++i) {
    const int64_t deadline_us = MonotonicMicros() + kPatienceUs;
    for (;;) {
      INCR_ASSIGN_OR_RETURN(const bool done, Settle(threads[i], i));
      if (done) break;
      if (MonotonicMicros() > deadline_us) {
        return absl::DeadlineExceededError(
            absl::StrCat("thread ", threads[i].tid(), " did not finish a batch of calls"));
      }
      INCR_RETURN_IF_ERROR(threads[i].ResumeCode());
      INCR_RETURN_IF_ERROR(AwaitFlags());
    }
  }

  INCR_RETURN_IF_ERROR(memory_.Read(base_, image.data(), image.size()));
  for (size_t i = 0; i < batches_.size(); ++i) {
    for (size_t j = 0; j < batches_[i].calls.size(); ++j) {
      RemoteCall made;
      std::memcpy(&made, image.data() + tables[i] + j * sizeof made, sizeof made);
      batches_[i].calls[j].result = made.result;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> BatchRun::FlagIsUp(size_t index) const {
  uint64_t flag = 0;
  INCR_RETURN_IF_ERROR(memory_.Read(
      base_ + index * layout_.block_size + layout_.data + offsetof(BatchData, flag), &flag,
      sizeof flag));
  return flag != 0;
}

// OK also when they did not all come up soon.
absl::Status BatchRun::AwaitFlags() const {
  const int64_t deadline_us = MonotonicMicros() + kPollUs;
  size_t up = 0;
  for (Backoff backoff; MonotonicMicros() < deadline_us; backoff.Pause()) {
    while (up < batches_.size()) {
      INCR_ASSIGN_OR_RETURN(const bool is_up, FlagIsUp(up));
      if (!is_up) break;
      ++up;
    }
    if (up == batches_.size()) break;
  }
  return absl::OkStatus();
}

// Stops the thread; true if it was through.
absl::StatusOr<bool> BatchRun::Settle(RemoteSyscalls& thread, size_t index) const {
  INCR_RETURN_IF_ERROR(thread.PauseCode());
  return FlagIsUp(index);
}

absl::StatusOr<std::string> RunOnce(BatchRun& run, const std::vector<ThreadBatch>& batches,
                                    RemoteAddr instruction, BatchMode mode) {
  std::vector<RemoteSyscalls> threads;
  threads.reserve(batches.size());
  for (const ThreadBatch& batch : batches) {
    INCR_ASSIGN_OR_RETURN(RemoteSyscalls thread, RemoteSyscalls::Begin(batch.tid, instruction));
    threads.push_back(std::move(thread));
  }
  INCR_ASSIGN_OR_RETURN(std::string answers, run.Run(threads, mode));
  for (RemoteSyscalls& thread : threads) INCR_RETURN_IF_ERROR(thread.End());
  return answers;
}

}  // namespace

absl::StatusOr<std::string> RunRemoteBatches(FrozenProcess& frozen, const InjectionPlan& plan,
                                             size_t answer_bytes, BatchMode mode,
                                             std::vector<ThreadBatch>* batches,
                                             RemoteAddr* scratch) {
  INCR_CHECK(!batches->empty());
  INCR_ASSIGN_OR_RETURN(const RemoteMemory memory, RemoteMemory::Open(frozen.process(), true));
  INCR_ASSIGN_OR_RETURN(const RemoteAddr instruction,
                        ConfirmSyscallInstruction(frozen.process(), memory, plan.syscall));
  BatchRun run(batches, answer_bytes, memory, instruction, plan.scratch);
  for (int attempt = 0;; ++attempt) {
    auto answers = RunOnce(run, *batches, instruction, mode);
    *scratch = run.scratch();
    // A thread went on by itself because we were not scheduled. It is at rest again; nothing of
    // what was asked counts, so ask once more. The scratch memory of this attempt stays behind.
    if (!absl::IsAborted(answers.status()) || attempt == kMaxAttempts) return answers;
  }
}

}  // namespace incr
