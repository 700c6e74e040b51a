// plan.h — what a restore will do to memory, decided before any process exists.
//
// Pure: an image and its page table in, ordered steps out; executing a step (build_memory.h)
// makes no choices.
//
//   image.mappings --> sources   files and shared objects to open, once each
//                      maps      one mmap each, in address order
//                      protects, advice, names, locks   after the pages are in
//   page table     --> private_pages   into the new process's memory
//                      object_pages    into shared anonymous memory, through its descriptor
//                      file_pages      into shared writable files, last of all: they outlive us
//                      file_holes      what the table lacks of those: a shared object's is whole
//
// A mapping that has pages to receive but is not writable is mapped writable and protected
// afterwards: process_vm_writev does not write through protection.
#ifndef INCR_CKPT_RESTORE_PLAN_H_
#define INCR_CKPT_RESTORE_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/image.pb.h"
#include "store/page_table.h"

namespace incr {

struct AddressRange {
  uint64_t start = 0, end = 0;  // bytes, page aligned, end exclusive
  uint64_t size() const { return end - start; }
  bool operator==(const AddressRange&) const = default;
};

// Something that mmap needs a descriptor of.
struct PlannedSource {
  enum Kind { kFile, kSharedAnonymous } kind = kFile;
  pb::FileIdentity file;      // kFile
  bool writable = false;      // kFile: opened O_RDWR, its pages may be written back
  bool must_be_same = false;  // kFile: its content counts, so size and mtime must be the saved ones
  uint64_t size = 0;          // kSharedAnonymous: bytes
};

struct PlannedMap {
  AddressRange range;
  int prot = 0;        // for now; see `protects`
  int flags = 0;       // MAP_*
  int source = -1;     // index into sources, -1: anonymous
  uint64_t offset = 0;  // bytes
};

struct PlannedProtect {
  AddressRange range;
  int prot = 0;
};

struct PlannedAdvice {
  AddressRange range;
  int advice = 0;  // MADV_*
};

struct PlannedName {
  AddressRange range;
  std::string name;  // without "[anon:" and "]"
};

// Pages with the same kind of destination; the three vectors run in parallel.
struct PlannedPages {
  std::vector<PageId> ids;
  std::vector<uint64_t> offsets;  // address in the process, or bytes into the source
  std::vector<int32_t> sources;   // empty for pages that go into the process
  size_t size() const { return ids.size(); }
};

// Bytes of a shared writable file that were a hole at the epoch: whatever is there now must read as zero.
struct PlannedHole {
  int source = -1;
  uint64_t offset = 0, size = 0;  // bytes
};

struct RestorePlan {
  std::vector<PlannedSource> sources;
  std::vector<PlannedMap> maps;
  std::vector<PlannedProtect> protects;
  std::vector<PlannedAdvice> advice;
  std::vector<PlannedName> names;
  std::vector<AddressRange> locks;
  std::vector<AddressRange> vvars;  // where [vvar], [vvar_vclock] lay, by address
  AddressRange vdso;                // size 0: the process had none
  PlannedPages private_pages;
  PlannedPages object_pages;
  PlannedPages file_pages;
  std::vector<PlannedHole> file_holes;
  std::vector<AddressRange> occupied;  // all of the image's mappings, by address
  uint64_t pages_without_mapping = 0;  // in the table, but no mapping of the image holds them
};

// REQUIRES: ValidateImage(image) was OK. `table` may hold pages of other spaces.
absl::StatusOr<RestorePlan> PlanRestore(const pb::Image& image, const pb::Process& process,
                                        const PageTable& table);

// A range of `size` bytes that touches none of `taken` (any order, may overlap), with
// a margin around it; kResourceExhausted if there is none.
absl::StatusOr<AddressRange> FindFreeRange(std::vector<AddressRange> taken, uint64_t size);

// What of [0, task size) lies outside of `keep`, by address.
std::vector<AddressRange> Complement(std::vector<AddressRange> keep);

}  // namespace incr

#endif  // INCR_CKPT_RESTORE_PLAN_H_
