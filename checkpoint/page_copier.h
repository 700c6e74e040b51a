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

class PageCopier {
 public:
  // `memory` and `writer` outlive the copier.
  PageCopier(const RemoteMemory* memory, EpochWriter* writer, uint32_t space)
      : memory_(memory), writer_(writer), space_(space) {}

  // Reads and adds batch by batch; the writer's back-pressure slows it. Pages that cannot
  // be read are not added but put into `unreadable`. `between` is called after each batch.
  absl::Status Stream(const PageSet& pages, PageSet* unreadable,
                      absl::FunctionRef<absl::Status()> between);

  // In two halves, so that only the reading falls into the freeze.
  absl::Status ReadIntoMemory(const PageSet& pages, PageSet* unreadable);
  absl::Status AddFromMemory();

  // Memory for `pages` pages, touched beforehand: first touches inside the freeze would cost
  // more than the copy.
  void Reserve(uint64_t pages);

 private:
  absl::Status Add(const std::vector<PageRange>& ranges, const uint8_t* bytes,
                   const PageSet& unreadable);

  const RemoteMemory* memory_;
  EpochWriter* writer_;
  const uint32_t space_;
  std::unique_ptr<uint8_t[]> buffer_;
  uint64_t buffer_pages_ = 0;
  std::vector<PageRange> held_;
  PageSet held_unreadable_;
};

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_PAGE_COPIER_H_
