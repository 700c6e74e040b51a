// core_notes.h — the note segment of an ELF core: what a debugger knows of threads, process and files. Pure.
//
// As fs/binfmt_elf.c of the kernel writes it: for the first thread NT_PRSTATUS, NT_PRPSINFO, NT_SIGINFO, NT_AUXV,
// NT_FILE, then its NT_PRFPREG and NT_X86_XSTATE; for each other thread NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE.
#ifndef INCR_CKPT_DUMP_CORE_NOTES_H_
#define INCR_CKPT_DUMP_CORE_NOTES_H_

#include <string>

#include "proto/image.pb.h"

namespace incr {

// REQUIRES: `process` passed ValidateImage.
std::string CoreNotes(const pb::Process& process);

}  // namespace incr

#endif  // INCR_CKPT_DUMP_CORE_NOTES_H_
