#include "dump/core_notes.h"

#include <elf.h>
#include <signal.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/string_view.h"
#include "base/page_range.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr size_t kFxsaveBytes = 512;  // the beginning of every XSAVE area: struct user_fpregs_struct

// The area up to PKRU (component 9), as far as gdb 13 knows it; AMX tiles, which follow, make it long.
constexpr size_t kXcr0Offset = 464, kXstateBvOffset = 512, kUpToPkruBytes = 2696;
constexpr uint64_t kUpToPkru = 0x3ff;

void AddNote(absl::string_view name, uint32_t type, absl::string_view data, std::string* notes) {
  const Elf64_Nhdr header = {static_cast<Elf64_Word>(name.size() + 1), static_cast<Elf64_Word>(data.size()), type};
  notes->append(reinterpret_cast<const char*>(&header), sizeof header);
  const auto append_padded = [notes](absl::string_view part) {
    notes->append(part.data(), part.size());
    notes->resize((notes->size() + 3) / 4 * 4);
  };
  append_padded(absl::string_view(name.data(), name.size() + 1));  // a literal, with its end
  append_padded(data);
}

template <typename T>
absl::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// As ptrace shows them in a thread that is stopped in its call.
user_regs_struct AsStopped(const pb::Thread& thread) {
  user_regs_struct registers;
  INCR_CHECK(thread.registers().size() == sizeof registers);
  std::memcpy(&registers, thread.registers().data(), sizeof registers);
  if (thread.call_result() != 0) {
    registers.orig_rax = registers.rax;
    registers.rax = static_cast<unsigned long long>(thread.call_result());
    registers.rip += 2;
  }
  return registers;
}

void AddStatus(const pb::Process& process, const pb::Thread& thread, std::string* notes) {
  elf_prstatus status{};
  status.pr_sighold = thread.signal_mask();
  status.pr_pid = static_cast<pid_t>(thread.tid());
  status.pr_ppid = static_cast<pid_t>(process.ppid());
  status.pr_pgrp = static_cast<pid_t>(process.pgid());
  status.pr_sid = static_cast<pid_t>(process.sid());
  status.pr_fpvalid = 1;
  const user_regs_struct registers = AsStopped(thread);
  static_assert(sizeof status.pr_reg == sizeof registers);
  std::memcpy(&status.pr_reg, &registers, sizeof registers);
  AddNote("CORE", NT_PRSTATUS, BytesOf(status), notes);
}

void AddProcess(const pb::Process& process, std::string* notes) {
  elf_prpsinfo info{};
  info.pr_sname = 'R';
  info.pr_nice = static_cast<char>(process.threads(0).nice());
  info.pr_uid = process.uid();
  info.pr_gid = process.gid();
  info.pr_pid = static_cast<pid_t>(process.pid());
  info.pr_ppid = static_cast<pid_t>(process.ppid());
  info.pr_pgrp = static_cast<pid_t>(process.pgid());
  info.pr_sid = static_cast<pid_t>(process.sid());
  std::strncpy(info.pr_fname, process.comm().c_str(), sizeof info.pr_fname - 1);
  std::strncpy(info.pr_psargs, process.command_line().c_str(), sizeof info.pr_psargs - 1);
  AddNote("CORE", NT_PRPSINFO, BytesOf(info), notes);
}

// The first signal that waits, if one does: no signal has ended the process.
void AddSignal(const pb::Process& process, std::string* notes) {
  siginfo_t info{};
  const auto& own = process.threads(0).pending_signals();
  for (const auto* pending : {&own, &process.pending_signals()}) {
    if (pending->empty() || (*pending)[0].size() != sizeof info) continue;
    std::memcpy(&info, (*pending)[0].data(), sizeof info);
    break;
  }
  AddNote("CORE", NT_SIGINFO, BytesOf(info), notes);
}

void AddFiles(const pb::Process& process, std::string* notes) {
  std::string ranges, names;
  uint64_t count = 0;
  const auto put = [](uint64_t value, std::string* to) { to->append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const pb::Mapping& mapping : process.mappings()) {
    if (!mapping.has_file()) continue;
    ++count;
    put(mapping.start(), &ranges);
    put(mapping.end(), &ranges);
    put(mapping.offset() / kPageSize, &ranges);
    names.append(mapping.file().path());
    names.push_back('\0');
  }
  if (count == 0) return;
  std::string note;
  put(count, &note);
  put(kPageSize, &note);
  AddNote("CORE", NT_FILE, note + ranges + names, notes);
}

// A thread that has nothing in its later components loses nothing without them.
std::string ForDebuggers(std::string xstate) {
  uint64_t used = 0, enabled = 0;
  if (xstate.size() <= kUpToPkruBytes) return xstate;
  std::memcpy(&used, xstate.data() + kXstateBvOffset, sizeof used);
  std::memcpy(&enabled, xstate.data() + kXcr0Offset, sizeof enabled);
  if ((used & ~kUpToPkru) != 0) return xstate;
  enabled &= kUpToPkru;
  std::memcpy(xstate.data() + kXcr0Offset, &enabled, sizeof enabled);
  xstate.resize(kUpToPkruBytes);
  return xstate;
}

void AddExtendedRegisters(const pb::Thread& thread, std::string* notes) {
  if (thread.xstate().size() < kFxsaveBytes) return;
  AddNote("CORE", NT_FPREGSET, absl::string_view(thread.xstate()).substr(0, kFxsaveBytes), notes);
  AddNote("LINUX", NT_X86_XSTATE, ForDebuggers(thread.xstate()), notes);
}

}  // namespace

std::string CoreNotes(const pb::Process& process) {
  std::string notes;
  for (const pb::Thread& thread : process.threads()) {
    AddStatus(process, thread, &notes);
    if (&thread == &process.threads(0)) {
      AddProcess(process, &notes);
      AddSignal(process, &notes);
      AddNote("CORE", NT_AUXV, process.layout().auxv(), &notes);
      AddFiles(process, &notes);
    }
    AddExtendedRegisters(thread, &notes);
  }
  return notes;
}

}  // namespace incr
