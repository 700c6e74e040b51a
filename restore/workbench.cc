#include "restore/workbench.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "process/memory_map.h"

namespace incr {

absl::StatusOr<Workbench> Workbench::SetUp(const ProcessHandle& child, const RestorePlan& plan) {
  INCR_ASSIGN_OR_RETURN(MemoryMap map, ReadMaps(child));
  std::vector<AddressRange> taken = plan.occupied;
  for (const MemoryMapping& mapping : map) taken.push_back({mapping.start, mapping.end});
  INCR_ASSIGN_OR_RETURN(AddressRange range, FindFreeRange(std::move(taken), kWorkbenchBytes));

  INCR_ASSIGN_OR_RETURN(RemoteAddr instruction, FindSyscallInstruction(child));
  INCR_ASSIGN_OR_RETURN(RemoteMemory memory, RemoteMemory::Open(child, /*writable=*/true));
  INCR_ASSIGN_OR_RETURN(RemoteSyscalls leader, RemoteSyscalls::Begin(child.pid(), instruction));
  INCR_RETURN_IF_ERROR(leader
                           .Call("mmap(workbench)", SYS_mmap, range.start, range.size(),
                                 PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
                           .status());
  static constexpr uint8_t kSyscall[] = {0x0f, 0x05};
  INCR_RETURN_IF_ERROR(memory.Write(RemoteAddr(range.start), kSyscall, sizeof kSyscall));
  INCR_RETURN_IF_ERROR(leader
                           .Call("mprotect(workbench)", SYS_mprotect, range.start, kPageSize,
                                 PROT_READ | PROT_EXEC)
                           .status());
  leader.set_syscall_instruction(RemoteAddr(range.start));
  return Workbench(child, std::move(leader), std::move(memory), range);
}

absl::Status Workbench::Clear(RemoteAddr instruction) {
  leader_.set_syscall_instruction(instruction);
  return leader_.Call("munmap(workbench)", SYS_munmap, range_.start, range_.size()).status();
}

}  // namespace incr
