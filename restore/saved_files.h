// saved_files.h — mappings of files that are gone or others now, but whose pages the epoch holds
// (checkpoint --save-file-pages): they become anonymous memory with that content.
//
// Before the plan: the image and the table are changed, and everything after treats them as what
// they then say. A file that is still the saved one is mapped as ever.
#ifndef INCR_CKPT_RESTORE_SAVED_FILES_H_
#define INCR_CKPT_RESTORE_SAVED_FILES_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "proto/image.pb.h"
#include "store/page_table.h"

namespace incr {

// Looks at each file with saved pages: which spaces are of files that cannot be mapped any more, and why.
std::map<uint32_t, std::string> FindChangedFiles(const pb::Process& process);

// Whether a mapping is of the program file. If not, nothing but /proc/<pid>/exe depends on that. Pure.
bool ProgramIsMapped(const pb::Process& process);

// Makes the mappings of `spaces` anonymous, their saved pages entries of the process's own space unless it has
// one there already. A warning of the image names each file. Pure. kResourceExhausted: it would be more memory
// than any machine has.
absl::Status RebuildFromSavedPages(const std::map<uint32_t, std::string>& spaces, pb::Image* image,
                                   pb::Process* process, PageTable* table);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_SAVED_FILES_H_
