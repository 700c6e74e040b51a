// test_image.h — a small valid image for tests of the planner and of validation.
#ifndef INCR_CKPT_RESTORE_TEST_IMAGE_H_
#define INCR_CKPT_RESTORE_TEST_IMAGE_H_

#include <sys/mman.h>
#include <sys/user.h>

#include <cstdint>
#include <string>

#include "proto/image.pb.h"
#include "proto/image_check.h"

namespace incr {

inline pb::Mapping* AddMapping(pb::Process* process, pb::Mapping::Kind kind, uint64_t start,
                               uint64_t end, uint32_t prot) {
  pb::Mapping* mapping = process->add_mappings();
  mapping->set_kind(kind);
  mapping->set_start(start);
  mapping->set_end(end);
  mapping->set_prot(prot);
  return mapping;
}

// Two threads; mappings of every kind:
//   400000-402000 program text    500000-504000 anonymous   600000-602000 anonymous, PROT_NONE
//   700000-702000, 800000-801000  one shared anonymous object   900000-902000 shared file
//   a00000-a02000 vvar a02000-a04000 vdso, vsyscall
inline pb::Image TestImage() {
  pb::Image image;
  image.set_version(kImageVersion);
  image.mutable_machine()->set_xfeatures(7);
  pb::MemoryObject* object = image.add_memory_objects();
  object->set_id(1);
  object->set_kind(pb::MemoryObject::SHARED_ANONYMOUS);
  object->set_size(0x2000);
  pb::OpenFile* file = image.add_open_files();
  file->set_id(1);
  file->set_kind(pb::OpenFile::REGULAR);
  file->mutable_file()->set_path("/tmp/log");

  pb::Process* process = image.add_processes();
  process->set_pid(71);
  process->mutable_exe()->set_path("/bin/program");
  process->set_cwd("/");
  process->set_root("/");
  for (uint32_t tid : {71, 72}) {
    pb::Thread* thread = process->add_threads();
    thread->set_tid(tid);
    thread->set_comm("program");
    user_regs_struct registers{};
    registers.cs = 0x33;
    registers.ss = 0x2b;
    registers.rip = 0x401000;
    thread->set_registers(&registers, sizeof registers);
    thread->set_xstate(std::string(2696, '\0'));
    thread->set_rseq(0x500020);
    thread->set_rseq_size(32);
    thread->add_pending_signals(std::string("\x0a\0\0\0", 4) + std::string(124, '\0'));
  }
  constexpr uint32_t kReadWrite = PROT_READ | PROT_WRITE;
  AddMapping(process, pb::Mapping::PRIVATE_FILE, 0x400000, 0x402000, PROT_READ | PROT_EXEC)
      ->mutable_file()
      ->set_path("/bin/program");
  AddMapping(process, pb::Mapping::ANONYMOUS, 0x500000, 0x504000, kReadWrite);
  AddMapping(process, pb::Mapping::ANONYMOUS, 0x600000, 0x602000, PROT_NONE);
  AddMapping(process, pb::Mapping::SHARED_OBJECT, 0x700000, 0x702000, kReadWrite)
      ->set_memory_object(1);
  AddMapping(process, pb::Mapping::SHARED_OBJECT, 0x800000, 0x801000, PROT_READ)
      ->set_memory_object(1);
  process->mutable_mappings(4)->set_offset(0x1000);
  pb::Mapping* shared =
      AddMapping(process, pb::Mapping::SHARED_FILE, 0x900000, 0x902000, kReadWrite);
  shared->set_may_write(true);
  shared->mutable_file()->set_path("/tmp/shared");
  AddMapping(process, pb::Mapping::VVAR, 0xa00000, 0xa02000, PROT_READ);
  AddMapping(process, pb::Mapping::VDSO, 0xa02000, 0xa04000, PROT_READ | PROT_EXEC);
  AddMapping(process, pb::Mapping::VSYSCALL, kVsyscallStart, kVsyscallEnd, PROT_EXEC);

  pb::SignalAction* action = process->add_signal_actions();
  action->set_signal(10);
  pb::IntervalTimer* timer = process->add_interval_timers();
  timer->set_value_us(5);
  pb::ResourceLimit* limit = process->add_limits();
  limit->set_resource(7);
  limit->set_soft(1024);
  limit->set_hard(4096);
  pb::FileDescriptor* descriptor = process->add_descriptors();
  descriptor->set_fd(3);
  descriptor->set_open_file(1);
  pb::MemoryLayout* layout = process->mutable_layout();
  layout->set_start_code(0x400000);
  layout->set_end_code(0x402000);
  layout->set_start_data(0x500000);
  layout->set_end_data(0x501000);
  layout->set_start_brk(0x502000);
  layout->set_brk(0x504000);
  layout->set_start_stack(0x500ff0);
  layout->set_arg_start(0x500f00);
  layout->set_arg_end(0x500f10);
  layout->set_env_start(0x500f10);
  layout->set_env_end(0x500f20);
  layout->set_auxv(std::string(32, '\0'));
  return image;
}

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_TEST_IMAGE_H_
