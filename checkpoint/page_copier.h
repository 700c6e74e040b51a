// page_copier.h — dirty pages from the target into an epoch, in bounded memory.
//
// Not thread-safe.
#ifndef INCR_CKPT_CHECKPOINT_PAGE_COPIER_H_
#define INCR_CKPT_CHECKPOINT_PAGE_COPIER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "process/remote_memory.h"
#include "store/store.h"

namespace incr {

// `pages` cut into pieces of at most `max_pages` in total each, in order. Pure.
std::vector<std::vector<PageRange>> CutIntoBatches(const PageSet& pages, uint64_t max_pages);

// Kept from epoch to epoch: memory touched for the first time costs more than the copy into it.
struct CopyBuffer {
  std::unique_ptr<uint8_t[]> bytes;
  uint64_t pages = 0;
};

class PageCopier {
 public:
  // `memory`, `writer` and `buffer` outlive the copier.
  PageCopier(const RemoteMemory* memory, EpochWriter* writer, uint32_t space, CopyBuffer* buffer)
      : memory_(memory), writer_(writer), space_(space), buffer_(*buffer) {}

  // Reads and adds batch by batch; the writer's back-pressure slows it. Pages that cannot
  // be read are not added but put into `unreadable`. `between` is called after each batch.
  absl::Status Stream(const PageSet& pages, PageSet* unreadable,
                      absl::FunctionRef<absl::Status()> between);

  // In two halves, so that only the reading falls into the freeze.
  absl::Status ReadIntoMemory(const PageSet& pages, PageSet* unreadable);
  absl::Status AddFromMemory();

  // Memory for `pages` pages, touched beforehand.
  void Reserve(uint64_t pages);

 private:
  absl::Status Add(const std::vector<PageRange>& ranges, const uint8_t* bytes,
                   const PageSet& unreadable);

  const RemoteMemory* memory_;
  EpochWriter* writer_;
  const uint32_t space_;
  CopyBuffer& buffer_;
  std::vector<PageRange> held_;
  PageSet held_unreadable_;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_PAGE_COPIER_H_
