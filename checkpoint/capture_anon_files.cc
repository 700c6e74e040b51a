#include "checkpoint/capture_anon_files.h"

#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
// Up to here each watch is checked by kcmp, whose cost grows with the epoll's size.
constexpr size_t kMaxKcmpWatches = 64;

absl::Status BadFdinfo(const OpenDescription& description, absl::string_view field) {
  return absl::InternalError(absl::StrCat(Describe(description), ": fdinfo has no usable \"",
                                          field, "\""));
}

absl::Status CaptureEventfd(const OpenDescription& description, pb::OpenFile* file,
                            pb::Image* image) {
  const absl::string_view text = description.first().fdinfo;
  uint64_t count = 0;
  if (!absl::SimpleHexAtoi(FdinfoField(text, "eventfd-count"), &count)) {
    return BadFdinfo(description, "eventfd-count");
  }
  const absl::string_view semaphore = FdinfoField(text, "eventfd-semaphore");
  if (semaphore.empty()) {  // before Linux 6.5
    image->add_warnings(absl::StrCat(Describe(description),
                                     ": this kernel does not tell whether the eventfd is a "
                                     "semaphore; it is taken for none"));
  }
  file->set_kind(pb::OpenFile::EVENTFD);
  file->set_eventfd_count(count);
  file->set_eventfd_semaphore(semaphore == "1");
  return absl::OkStatus();
}

struct WatchLine {
  int fd = 0;
  uint32_t events = 0;
  uint64_t data = 0;
  uint64_t inode = 0;
};

// "tfd:        5 events:       19 data:                5  pos:0 ino:63c2 sdev:f"
bool ParseWatch(const std::string& line, WatchLine* watch) {
  return std::sscanf(line.c_str(), "tfd: %d events: %" SCNx32 " data: %" SCNx64
                                   " pos:%*d ino:%" SCNx64,
                     &watch->fd, &watch->events, &watch->data, &watch->inode) == 4;
}

// Epoll keeps a watch while the file is open anywhere, under a number that may mean
// another file by now, or none.
absl::StatusOr<bool> WatchIsCurrent(const FileCapture& capture, int epoll_fd,
                                    const WatchLine& watch, bool few) {
  const auto entry =
      std::lower_bound(capture.table.begin(), capture.table.end(), watch.fd,
                       [](const FdEntry& e, int fd) { return e.fd < fd; });
  if (entry == capture.table.end() || entry->fd != watch.fd) return false;
  if (entry->stat.st_ino != watch.inode) return false;
  // All anonymous files share one inode: there only kcmp knows.
  if (!few && !absl::StartsWith(entry->link, "anon_inode:")) return true;
  return EpollWatchIsOf(capture.target, epoll_fd, watch.fd);
}

absl::Status CaptureEpoll(const FileCapture& capture, const OpenDescription& description,
                          pb::OpenFile* file, pb::Image* image) {
  std::vector<std::string> lines = absl::StrSplit(description.first().fdinfo, '\n');
  lines.erase(std::remove_if(lines.begin(), lines.end(),
                             [](const std::string& l) { return !absl::StartsWith(l, "tfd:"); }),
              lines.end());
  file->set_kind(pb::OpenFile::EPOLL);
  for (const std::string& line : lines) {
    WatchLine watch;
    if (!ParseWatch(line, &watch)) return BadFdinfo(description, "tfd");
    INCR_ASSIGN_OR_RETURN(bool current, WatchIsCurrent(capture, description.fd(), watch,
                                                       lines.size() <= kMaxKcmpWatches));
    if (!current) {
      image->add_warnings(absl::StrCat(Describe(description), ": its watch of fd ", watch.fd,
                                       ", closed since under that number, is not restored"));
      continue;
    }
    pb::EpollWatch* saved = file->add_epoll();
    saved->set_fd(static_cast<uint32_t>(watch.fd));
    saved->set_events(watch.events);
    saved->set_data(watch.data);
  }
  return absl::OkStatus();
}

// "it_value: (99, 997995064)"
bool ParseTimeField(absl::string_view text, absl::string_view name, int64_t* nanos) {
  int64_t seconds = 0, rest = 0;
  const std::string field(FdinfoField(text, name));
  if (std::sscanf(field.c_str(), "(%" SCNd64 ", %" SCNd64 ")", &seconds, &rest) != 2) return false;
  *nanos = seconds * kNanosPerSecond + rest;
  return true;
}

bool ParseTimerfd(absl::string_view text, pb::Timerfd* timer) {
  int clock = 0;
  uint64_t ticks = 0;
  int64_t value = 0, interval = 0;
  unsigned flags = 0;
  if (!absl::SimpleAtoi(FdinfoField(text, "clockid"), &clock) ||
      !absl::SimpleAtoi(FdinfoField(text, "ticks"), &ticks) ||
      std::sscanf(std::string(FdinfoField(text, "settime flags")).c_str(), "%o", &flags) != 1 ||
      !ParseTimeField(text, "it_value", &value) ||
      !ParseTimeField(text, "it_interval", &interval)) {
    return false;
  }
  timer->set_clock(clock);
  timer->set_ticks(ticks);
  timer->set_settime_flags(flags);
  timer->set_value_ns(value);
  timer->set_interval_ns(interval);
  return true;
}

absl::Status CaptureTimerfd(const FileCapture& capture, const OpenDescription& description,
                            pb::OpenFile* file) {
  pb::Timerfd* timer = file->mutable_timerfd();
  file->set_kind(pb::OpenFile::TIMERFD);
  if (!ParseTimerfd(description.first().fdinfo, timer)) return BadFdinfo(description, "timerfd");
  if (timer->interval_ns() != 0 && timer->value_ns() == 0) {
    // Expired and unread: the kernel counts the later ticks only when somebody looks, and
    // fdinfo does not look. timerfd_gettime does, as the program's own read would.
    INCR_ASSIGN_OR_RETURN(ScopedFd copy, capture.target.DuplicateFd(description.fd()));
    itimerspec current;
    if (::timerfd_gettime(copy.get(), &current) != 0) {
      return ErrnoStatus(absl::StrCat("timerfd_gettime(", Describe(description), ")"));
    }
    INCR_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(capture.target.ProcPath(absl::StrCat(
                                                "fdinfo/", description.fd()))));
    if (!ParseTimerfd(text, timer)) return BadFdinfo(description, "timerfd");
  }
  if ((timer->settime_flags() & TFD_TIMER_ABSTIME) != 0 && timer->value_ns() != 0) {
    timespec now;
    if (::clock_gettime(timer->clock(), &now) != 0) {
      return ErrnoStatus(absl::StrCat("clock_gettime(", timer->clock(), ")"));
    }
    timer->set_deadline_ns(now.tv_sec * kNanosPerSecond + now.tv_nsec + timer->value_ns());
  }
  return absl::OkStatus();
}

absl::Status CaptureSignalfd(const OpenDescription& description, pb::OpenFile* file) {
  uint64_t mask = 0;
  if (!absl::SimpleHexAtoi(FdinfoField(description.first().fdinfo, "sigmask"), &mask)) {
    return BadFdinfo(description, "sigmask");
  }
  file->set_kind(pb::OpenFile::SIGNALFD);
  file->set_signalfd_mask(mask);
  return absl::OkStatus();
}

}  // namespace

absl::Status CaptureAnonFile(const FileCapture& capture, const OpenDescription& description,
                             pb::OpenFile* file, pb::Image* image) {
  absl::string_view name = description.first().link;
  absl::ConsumePrefix(&name, "anon_inode:");
  if (name == "[eventfd]") return CaptureEventfd(description, file, image);
  if (name == "[eventpoll]") return CaptureEpoll(capture, description, file, image);
  if (name == "[timerfd]") return CaptureTimerfd(capture, description, file);
  if (name == "[signalfd]") return CaptureSignalfd(description, file);
  return Unsupported(description, "this kind of descriptor is not supported yet");
}

}  // namespace incr
