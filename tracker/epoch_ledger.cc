#include "tracker/epoch_ledger.h"

#include <utility>

#include "base/status.h"

namespace incr {

void EpochLedger::Reset(PageSet known) {
  *this = EpochLedger();
  known_ = std::move(known);
}

PageSet EpochLedger::TakeRunning(PageSet written) {
  written.Add(again_);
  again_.Clear();
  handed_.Add(written);
  return written;
}

TakenPages EpochLedger::TakeFrozen(PageSet written, PageSet content, const PageSet& compared) {
  TakenPages taken;
  const PageSet excluded = std::exchange(excluded_, PageSet());
  if (!excluded.empty()) {
    taken.excluded = content.Intersect(excluded);
    content.Remove(excluded);
  }
  taken.pages_scanned = content.page_count();

  PageSet accounted = known_;
  accounted.Add(handed_);
  PageSet unaccounted = content;
  unaccounted.Remove(accounted);
  written.Add(unaccounted);
  if (!again_.empty()) written.Add(again_.Intersect(content));
  if (!lost_.empty()) written.Add(lost_.Intersect(content));
  if (!handed_.empty()) written.Add(handed_.Intersect(compared));
  if (!excluded.empty()) written.Remove(excluded);
  again_.Clear();
  lost_.Clear();
  taken.gone = std::move(accounted);
  taken.gone.Remove(content);
  gone_ = taken.gone;
  handed_.Add(written);
  // Whether one of these was written has been read, destructively, and what was owed of them is forgotten
  // above: if this epoch fails they are in doubt like those that were copied.
  handed_.Add(taken.excluded);
  taken.written = std::move(written);

  content_ = std::move(content);
  frozen_taken_ = true;
  return taken;
}

void EpochLedger::EpochDurable() {
  INCR_CHECK(frozen_taken_);
  frozen_taken_ = false;
  known_ = std::move(content_);
  content_.Clear();
  handed_.Clear();
  gone_.Clear();
}

void EpochLedger::EpochFailed() {
  frozen_taken_ = false;
  content_.Clear();
  lost_.Add(gone_);
  gone_.Clear();
  again_.Add(handed_);
  handed_.Clear();
}

}  // namespace incr
