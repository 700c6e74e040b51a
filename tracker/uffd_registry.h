// uffd_registry.h — which of a process's mappings are registered with our userfaultfd, and which
// protection bits can be believed.
//
// The kernel's own word (PAGE_IS_WPALLOWED) says what is registered; nothing here remembers it.
// But a bit may lie. mremap onto a place beside a registered mapping may merge the two, and then
// drops the registration of both without clearing the neighbour's bits (seen on 6.18). A write to the
// neighbour now makes its page writable and keeps the bit. Registered again, that page looks armed and
// clean for ever, and no scan arms it again. Hence the rule: a mapping that was found unregistered
// has all its bits cleared after it is registered and before it is scanned.
//
// Registration splits a mapping at the ends of the range given, and mremap of two mappings as if they
// were one fails (before 6.17) or stops half-way, where an untracked program would succeed: a
// realloc() that returns null. So only whole mappings are registered, and since a running
// target's mappings change between our look and our call, only in a freeze. (mem_chaos died of it.)
//
// Another userfaultfd may own a mapping: one of the program's own, or of another tracker. If it is one with
// WP_ASYNC too, the kernel says WPALLOWED all the same: its bits are then armed by the other, and would be
// by us, and both would lose writes. Only the attempt to register tells whose a mapping is (EBUSY), so it
// is made at each freeze. (Two stores tracking one process both saved garbage.)
//
// Not thread-safe.
#ifndef INCR_CKPT_TRACKER_UFFD_REGISTRY_H_
#define INCR_CKPT_TRACKER_UFFD_REGISTRY_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/page_range.h"
#include "base/scoped_fd.h"
#include "process/memory_map.h"

namespace incr {

class UffdRegistry {
 public:
  explicit UffdRegistry(ScopedFd uffd) : uffd_(std::move(uffd)) {}

  // In a freeze: the private mappings that `unregistered` lies in. What cannot be registered gets a
  // warning. Then looks whose all the others are.
  void RegisterFrozen(const MemoryMap& map, const PageSet& unregistered);

  // The private mappings that another userfaultfd has, as the last freeze found them: their bits say
  // nothing, and arming them would take writes from whoever has them.
  const PageSet& foreign() const { return foreign_; }
  bool looked() const { return looked_; }  // There was a freeze; before it nothing is ours.

  // In a freeze, before the scan: clears what is suspect. Content in what could not be cleared,
  // which is returned, counts as written. `protected_in`: the pages of a range whose bit is set; clearing
  // walks at 100 ns a page, looking at 2, and mostly there are none.
  const PageSet& ClearSuspects(
      const MemoryMap& map, absl::FunctionRef<absl::StatusOr<PageSet>(PageRange)> protected_in);

  // In a freeze: takes away what a dropped page of a file mapping has left of its protection.
  // MADV_GUARD_INSTALL finds it in its way, drops the page again, and so on for ever (6.15-6.18).
  void ClearMarkers(const PageSet& markers);

  std::vector<std::string> warnings() const;

 private:
  void FindForeign(const MemoryMap& map);
  void Warn(const MemoryMapping& mapping, const absl::Status& why);
  absl::Status Clear(PageRange range);

  const ScopedFd uffd_;
  PageSet suspect_;
  PageSet foreign_;
  bool looked_ = false;
  PageSet warned_of_;
  std::vector<std::string> warnings_;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_UFFD_REGISTRY_H_
