// epoch_memory.h — the memory of an epoch by address, without a process to have it: for cores and raw dumps.
//
// What the store has no page for is the mapping's background: zeros, or the page of the file, which is read from the
// file itself if that is still the one it was (device, inode, size and modification time).
//
// Thread-safe after Open. The store outlives it.
#ifndef INCR_CKPT_DUMP_EPOCH_MEMORY_H_
#define INCR_CKPT_DUMP_EPOCH_MEMORY_H_

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"
#include "proto/image.pb.h"
#include "store/page_table.h"
#include "store/store.h"

namespace incr {

// Pages of one mapping that have their content from the same place.
struct MemoryRun {
  enum class From {
    kStore,
    kZeros,
    kFile,     // as it is on disk
    kVdso,     // of this kernel, which is the same
    kNowhere,  // see `why`
  };
  uint64_t start = 0, end = 0;  // addresses, whole pages
  From from = From::kNowhere;
  std::string why;  // "its file /a/b has changed"; only of kNowhere
};

class EpochMemory {
 public:
  // kDataLoss: the image is damaged.
  static absl::StatusOr<EpochMemory> Open(const StoreReader& store, const std::string& job, uint64_t epoch);

  const pb::Image& image() const { return image_; }
  const pb::Process& process() const { return image_.processes(0); }

  // All of `mapping`, by address.
  std::vector<MemoryRun> Runs(const pb::Mapping& mapping) const;

  // Hands out the bytes of [start, end), whole pages of one run, by address, in parts of at most 4 MiB. Of a run
  // of zeros, none. kDataLoss: a page is damaged. REQUIRES: the run comes from somewhere.
  absl::Status Read(const pb::Mapping& mapping, const MemoryRun& run, uint64_t start, uint64_t end,
                    absl::FunctionRef<absl::Status(uint64_t address, absl::string_view bytes)> sink) const;

 private:
  struct File {
    ScopedFd fd;  // not ok: cannot be opened
    struct stat now {};
  };
  explicit EpochMemory(const StoreReader* store) : store_(store) {}
  static File OpenNow(const std::string& path);
  std::string WhyNotTheFile(const pb::FileIdentity& was) const;
  MemoryRun Background(const pb::Mapping& mapping) const;
  absl::Status ReadStored(const pb::Mapping& mapping, uint64_t start, uint64_t end, char* to) const;

  const StoreReader* store_;
  pb::Image image_;
  PageTable table_;
  std::map<std::string, File> files_;  // by path
  std::string vdso_;                // "": this kernel has another one
};

}  // namespace incr

#endif  // INCR_CKPT_DUMP_EPOCH_MEMORY_H_
