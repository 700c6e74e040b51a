// epoch_ledger.h — what was handed out, what is durable, what must be handed out again.
// Shared by all trackers; pure bookkeeping, no kernel.
//
//   known    pages of the last durable epoch's table (or a few more)
//   handed   given to the caller since then; in doubt until the epoch is durable
//   again    owed: of a failed epoch, or put back
//   lost     gone in a failed epoch: owed as well, should it have content after all
//   content  what the target's pages are at the freeze, said by the tracker
//
// The net under every tracker: a page that has content at the freeze and is neither known nor
// handed out is written, whatever the kernel's bits say.
//
// Not thread-safe.
#ifndef INCR_CKPT_TRACKER_EPOCH_LEDGER_H_
#define INCR_CKPT_TRACKER_EPOCH_LEDGER_H_

#include <utility>

#include "base/page_range.h"
#include "tracker/write_tracker.h"

namespace incr {

class EpochLedger {
 public:
  // Forgets everything but `known`.
  void Reset(PageSet known);

  // About what the target has populated, as far as it is known: for dividing work.
  const PageSet& populated() const { return known_.empty() ? handed_ : known_; }

  // `written`: found by this round. Returns what to hand out.
  PageSet TakeRunning(PageSet written);

  // `content`: every page that has content of its own; contains `written`.
  // `compared`: those whose being written was found by comparison with the durable epoch. If one
  // was handed out since then, the epoch may hold what it read in between, or what another
  // mapping had at its address: it is handed out again. pages_scanned is content's size.
  TakenPages TakeFrozen(PageSet written, PageSet content, const PageSet& compared = {});

  // The next TakeFrozen treats these as without content: known or handed out, they are gone; afterwards
  // they are not known, so that all their content is written once they are excluded no more.
  void Exclude(PageSet pages) { excluded_ = std::move(pages); }

  void PutBack(const PageSet& pages) { again_.Add(pages); }
  void EpochDurable();  // TakeFrozen came before.
  void EpochFailed();

 private:
  PageSet known_;
  PageSet handed_;
  PageSet again_;
  PageSet lost_;
  PageSet gone_;  // at the last TakeFrozen
  PageSet excluded_;
  PageSet content_;  // at the last TakeFrozen
  bool frozen_taken_ = false;
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_EPOCH_LEDGER_H_
