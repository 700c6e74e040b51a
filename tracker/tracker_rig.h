// tracker_rig.h — a puppet target (testdata/targets/trk_target), a tracker on it, and the image that
// its epochs add up to, checked at every freeze against what the target's memory really is.
//
// The check reads /proc by its own means and trusts no code of tracker/. Test code, not thread-safe.
#ifndef INCR_CKPT_TRACKER_TRACKER_RIG_H_
#define INCR_CKPT_TRACKER_TRACKER_RIG_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "base/scoped_fd.h"
#include "gtest/gtest.h"
#include "process/memory_map.h"
#include "process/process_handle.h"
#include "process/remote_memory.h"
#include "tracker/uffd_wp_async_tracker.h"
#include "tracker/write_tracker.h"

namespace incr {

struct BackEnd {
  std::string name;     // of the test instance
  std::string tracker;  // as for --tracker
  // uffd-wp-async as on another kernel; none: as it is here.
  std::optional<UffdTrackerTraits> traits;

  absl::Status Works() const;  // or why it cannot on this machine
  bool compares() const { return tracker == "compare"; }
  bool soft_dirty() const { return tracker == "soft-dirty"; }
  bool uses_userfaultfd() const { return UffdFeaturesOfTracker(tracker) != 0; }
  // The shared zero page, which a read of empty memory maps, is content to it: zeros, which cost the store
  // nothing. For soft-dirty it is another page in the place of a dropped one, like any that shows no write.
  bool takes_zero_page() const { return compares() || soft_dirty() || tracker == "uffd-wp"; }
  // All own pages of private file mappings, each time.
  bool takes_file_copies() const { return tracker == "uffd-wp-async"; }
  // The bit of a huge page is one for all of its 512.
  bool takes_huge_pages_whole() const { return soft_dirty(); }
  // Reads private memory itself, of files at least: after an exec that is an error.
  bool reads_private_memory() const { return compares() || tracker == "uffd-wp"; }
  // A write through /proc/<pid>/mem or by ptrace to a page that it watches fails (EIO), since the kernel
  // may not wait for an answer there.
  bool refuses_forced_writes() const { return tracker == "uffd-wp"; }
  // Tells a dropped private copy of a file's page from a swapped one.
  bool sees_markers() const { return !traits || traits->markers_visible; }
};
void PrintTo(const BackEnd& back_end, std::ostream* out);
// INCR_TRACKER=name: only that one.
std::vector<BackEnd> AllBackEnds();

class TrackerRig {
 public:
  struct EpochOptions {
    int running_rounds = 0;
    bool arm_new = false;  // in a freeze of its own, first
    bool fail = false;
    std::function<void()> before_freeze;
    bool deep = false;  // also read what is not populated, which populates it
  };

  // Starts the target; `file_bytes` long is the file that it maps.
  explicit TrackerRig(const BackEnd& back_end, uint64_t file_bytes = 16 * kPageSize + 100,
                      const char* program = "testdata/targets/trk_target");
  TrackerRig(const TrackerRig&) = delete;
  TrackerRig& operator=(const TrackerRig&) = delete;
  ~TrackerRig();

  // printf-like; the answer's number, or -errno.
  long Try(const char* format, ...) __attribute__((format(printf, 2, 3)));
  // The same, and a failure of the test if it did not work.
  long Do(const char* format, ...) __attribute__((format(printf, 2, 3)));

  void Arm();                         // a new tracker that knows nothing
  // In a freeze, as after a restore to an image that has `known` just as it is now.
  void ArmWith(const PageSet& known);
  void Exec();  // the target becomes a new program, as obedient
  // One epoch, the image checked. Returns the union of what the Takes said.
  TakenPages Epoch(const EpochOptions& options);
  TakenPages Epoch() { return Epoch(EpochOptions()); }

  WriteTracker& tracker() { return *tracker_; }
  const ProcessHandle& process() const { return *process_; }
  const std::map<uint64_t, std::string>& image() const { return image_; }
  const std::string& file() const { return file_; }
  MemoryMap Maps() const;
  MemoryMapping MappingAt(uint64_t address) const;
  void Kill();
  // Held while the target is frozen: other writers of its memory must stand still too.
  std::mutex& freezing() { return freezing_; }
  // Called with true before each freeze of an epoch, with false after it.
  void set_still(std::function<void(bool)> still) { still_ = std::move(still); }

 private:
  using Image = std::map<uint64_t, std::string>;

  long Exchange(const char* format, va_list arguments, std::string* message);
  void MakeTracker();
  void Copy(const PageSet& pages, bool put_back, Image* image);
  void CheckAgainstTruth(const MemoryMap& map, const Image& image, bool deep);

  const BackEnd back_end_;
  std::string file_;
  ScopedFd socket_;
  std::optional<ProcessHandle> process_;
  std::optional<RemoteMemory> memory_;
  std::unique_ptr<WriteTracker> tracker_;
  std::mutex freezing_;
  std::function<void(bool)> still_ = [](bool) {};
  Image image_;  // of the last durable epoch
};

}  // namespace incr

#endif  // INCR_CKPT_TRACKER_TRACKER_RIG_H_
