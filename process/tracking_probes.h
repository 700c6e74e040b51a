// tracking_probes.h — does this kernel tell which pages were written? Found by use: each
// probe maps a few pages in this process, writes to them and looks. About 1 ms in all.
// Thread-safe.
#ifndef INCR_CKPT_PROCESS_TRACKING_PROBES_H_
#define INCR_CKPT_PROCESS_TRACKING_PROBES_H_

#include "process/features.h"

namespace incr {

Feature ProbeUserfaultfd();      // "uffd"
Feature ProbePagemapScan();      // "pagemap_scan"
Feature ProbeUffdWpAsync();      // "uffd_wp_async": registration, arming, a write seen, with PAGEMAP_SCAN
Feature ProbeUffdWp();           // "uffd_wp": the same, with a thread that serves the write, and pagemap bit 57
Feature ProbeThpDontneed();      // "thp_dontneed_reported"
Feature ProbeMremapClearsWp();   // "mremap_clears_wp": moved pages do not keep the protection bit
Feature ProbePagemapGuard();     // "pagemap_guard": PAGE_IS_GUARD
Feature ProbeWrittenReportsEmpty();  // "written_reports_empty"
Feature ProbePagemapFrames();    // "pagemap_frames": frame bits are shown to us
Feature ProbeSoftDirty();        // "soft_dirty"; in a child, as it changes a process's baseline

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_TRACKING_PROBES_H_
