#include "tracker/tracker_rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "process/frozen_process.h"
#include "process/kernel_abi.h"
#include "process/thread_state.h"

namespace incr {
namespace {

std::string MakeFile(uint64_t bytes) {
  const char* directory = std::getenv("TEST_TMPDIR");
  std::string path = absl::StrCat(directory ? directory : "/tmp", "/trk_file_XXXXXX");
  const ScopedFd fd(::mkostemp(path.data(), O_CLOEXEC));
  std::string content(bytes, '\0');
  for (uint64_t i = 0; i < bytes; ++i) content[i] = static_cast<char>('A' + (i / 7 + i % 31) % 50);
  EXPECT_TRUE(PwriteExactly(fd.get(), content.data(), bytes, 0, path).ok());
  return path;
}

// The first bytes.
std::string Hex(const std::string& page) { return absl::BytesToHexString(page.substr(0, 16)); }

// What the target's memory really is, page by page.
class Truth {
 public:
  explicit Truth(const ProcessHandle& process) : process_(process) {
    mem_.reset(::open(process.ProcPath("mem").c_str(), O_RDONLY | O_CLOEXEC));
    pagemap_.reset(::open(process.ProcPath("pagemap").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(mem_.ok() && pagemap_.ok());
  }

  // "" when the page cannot be read (beyond the end of its file).
  std::string ThroughProcess(uint64_t page) const {
    std::string bytes(kPageSize, '\0');
    const ssize_t n = ::pread(mem_.get(), bytes.data(), kPageSize, page * kPageSize);
    return n == static_cast<ssize_t>(kPageSize) ? bytes : "";
  }
  // Of the object or file behind `mapping`; "" beyond its end.
  std::string ThroughObject(int object, const MemoryMapping& mapping, uint64_t page) const {
    std::string bytes(kPageSize, '\0');
    const uint64_t offset = mapping.offset + (page * kPageSize - mapping.start);
    const ssize_t n = ::pread(object, bytes.data(), kPageSize, offset);
    if (n < 0) return ThroughProcess(page);  // System V memory cannot be read as a file on 6.1.
    return n > 0 ? bytes : "";
  }
  // Pages of its own: neither empty, nor a marker, nor the file's.
  std::vector<bool> Own(PageRange range) const {
    std::vector<uint64_t> entries(range.count);
    EXPECT_EQ(::pread(pagemap_.get(), entries.data(), range.count * 8, range.first * 8),
              static_cast<ssize_t>(range.count * 8));
    std::vector<bool> own;
    for (uint64_t entry : entries) {
      own.push_back((entry >> 63 & 1) ? !(entry >> 61 & 1)
                                      : (entry >> 62 & 1) != 0 && (entry & 31) != 31);
    }
    return own;
  }

  uint64_t Entry(uint64_t page) const {
    uint64_t entry = 0;
    EXPECT_EQ(::pread(pagemap_.get(), &entry, 8, page * 8), 8);
    return entry;
  }

  ScopedFd Object(const MemoryMapping& mapping) const {
    const std::string path = process_.ProcPath(
        absl::StrFormat("map_files/%x-%x", mapping.start, mapping.end));
    ScopedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    // The Take has registered it with a neighbour, and both have merged.
    if (!fd.ok() && errno == ENOENT) {
      auto merged = OpenMappedObject(process_, mapping);
      if (merged.ok()) fd = *std::move(merged);
    }
    EXPECT_TRUE(fd.ok()) << path << ": " << std::strerror(errno);
    return fd;
  }

 private:
  const ProcessHandle& process_;
  ScopedFd mem_, pagemap_;
};

const std::string& ZeroPage() {
  static const auto& zero = *new std::string(kPageSize, '\0');
  return zero;
}

}  // namespace

void PrintTo(const BackEnd& back_end, std::ostream* out) { *out << back_end.name; }

// As a process of many gigabytes is scanned.
UffdTrackerTraits InManyParts() {
  UffdTrackerTraits traits = ProbeUffdTrackerTraits();
  traits.large_process = 1;
  traits.part_pages = 7;
  return traits;
}

std::vector<BackEnd> AllBackEnds() {
  std::vector<BackEnd> all = {{"UffdWpAsync", "uffd-wp-async", ProbeUffdTrackerTraits()},
                              {"UffdWpAsyncOldKernel", "uffd-wp-async", UffdTrackerTraits()},
                              {"UffdWpAsyncManyParts", "uffd-wp-async", InManyParts()},
                              {"UffdWp", "uffd-wp", std::nullopt},
                              {"SoftDirty", "soft-dirty", std::nullopt},
                              {"Compare", "compare", std::nullopt}};
  if (const char* only = std::getenv("INCR_TRACKER")) {
    std::erase_if(all, [&](const BackEnd& back_end) { return back_end.tracker != only; });
  }
  return all;
}

absl::Status BackEnd::Works() const {
  std::string why;
  return ChooseTracker(tracker, &why).status();
}

TrackerRig::TrackerRig(const BackEnd& back_end, uint64_t file_bytes, const char* program)
    : back_end_(back_end), file_(MakeFile(file_bytes)) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  socket_.reset(ends[0]);
  // A target that hangs fails the test instead of hanging it.
  const timeval patience{60, 0};
  ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const ScopedFd theirs(ends[1]);
  const std::string number = absl::StrCat(theirs.get());
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::fcntl(theirs.get(), F_SETFD, 0);
    ::execl(program, program, number.c_str(), file_.c_str(), nullptr);
    ::_exit(127);
  }
  auto process = ProcessHandle::Open(child);
  EXPECT_TRUE(process.ok()) << process.status();
  process_.emplace(*std::move(process));
  Do("brk 0");  // It runs.
  auto memory = RemoteMemory::Open(*process_, false);
  EXPECT_TRUE(memory.ok()) << memory.status();
  memory_.emplace(*std::move(memory));
}

TrackerRig::~TrackerRig() {
  Kill();
  ::unlink(file_.c_str());
}

void TrackerRig::Kill() {
  ::kill(process_->pid(), SIGKILL);
  ::waitpid(process_->pid(), nullptr, 0);
}

long TrackerRig::Exchange(const char* format, va_list arguments, std::string* message) {
  char text[256];
  const int length = std::vsnprintf(text, sizeof text, format, arguments);
  *message = std::string(text, length);
  if (::send(socket_.get(), text, length, MSG_NOSIGNAL) != length) return -EPIPE;
  const ssize_t n = ::recv(socket_.get(), text, sizeof text - 1, 0);
  if (n <= 0) return -EPIPE;
  text[n] = 0;
  unsigned long number = 0;
  if (std::sscanf(text, "ok %lx", &number) == 1) return static_cast<long>(number);
  std::sscanf(text, "error %lu", &number);
  return -static_cast<long>(number);
}

long TrackerRig::Try(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string message;
  const long result = Exchange(format, arguments, &message);
  va_end(arguments);
  return result;
}

long TrackerRig::Do(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string message;
  const long result = Exchange(format, arguments, &message);
  va_end(arguments);
  EXPECT_GE(result, 0) << message << ": " << std::strerror(static_cast<int>(-result));
  return result;
}

void TrackerRig::Exec() {
  ASSERT_EQ(::send(socket_.get(), "exec", 4, MSG_NOSIGNAL), 4);
  Do("brk 0");  // Answered by the new program.
  auto memory = RemoteMemory::Open(*process_, false);
  ASSERT_TRUE(memory.ok()) << memory.status();
  memory_.emplace(*std::move(memory));
}

MemoryMap TrackerRig::Maps() const {
  auto map = ReadMaps(*process_);
  EXPECT_TRUE(map.ok()) << map.status();
  return map.ok() ? *map : MemoryMap();
}

MemoryMapping TrackerRig::MappingAt(uint64_t address) const {
  for (const MemoryMapping& m : Maps()) {
    if (m.start <= address && address < m.end) return m;
  }
  ADD_FAILURE() << "nothing mapped at " << std::hex << address;
  return {};
}

void TrackerRig::MakeTracker() {
  const uint64_t features = UffdFeaturesOfTracker(back_end_.tracker);
  ScopedFd uffd;
  if (features != 0) {
    auto frozen = FrozenProcess::Freeze(*process_);
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    auto created = CreateRemoteUserfaultfd(*frozen, features);
    ASSERT_TRUE(created.ok()) << created.status();
    ASSERT_TRUE((*std::move(frozen)).Thaw().ok());
    uffd = *std::move(created);
  }
  auto tracker = back_end_.traits
                     ? NewUffdWpAsyncTracker(&*process_, std::move(uffd), *back_end_.traits)
                     : NewWriteTracker(back_end_.tracker, &*process_, std::move(uffd));
  ASSERT_TRUE(tracker.ok()) << tracker.status();
  tracker_ = *std::move(tracker);
}

void TrackerRig::Arm() {
  tracker_.reset();  // Its userfaultfd first: the mappings are still its own.
  MakeTracker();
  image_.clear();
  const absl::Status status = tracker_->Arm(Maps(), PageSet());
  ASSERT_TRUE(status.ok()) << status;
}

void TrackerRig::ArmWith(const PageSet& known) {
  tracker_.reset();
  MakeTracker();
  auto frozen = FrozenProcess::Freeze(*process_);
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  const Truth truth(*process_);
  image_.clear();
  for (const PageRange& run : known.runs()) {
    for (uint64_t page = run.first; page < run.end(); ++page) {
      std::string bytes = truth.ThroughProcess(page);
      image_[page] = bytes.empty() ? std::string(kPageSize, '?') : std::move(bytes);
    }
  }
  const absl::Status status = tracker_->Arm(Maps(), known);
  ASSERT_TRUE(status.ok()) << status;
}

void TrackerRig::Copy(const PageSet& pages, bool put_back, Image* image) {
  PageSet unreadable;
  for (const PageRange& run : pages.runs()) {
    std::string bytes(run.count * kPageSize, '\0');
    const absl::Status status =
        memory_->ReadPages({run}, reinterpret_cast<uint8_t*>(bytes.data()), &unreadable);
    ASSERT_TRUE(status.ok()) << status;
    for (uint64_t i = 0; i < run.count; ++i) {
      const uint64_t page = run.first + i;
      if (!unreadable.Contains(page)) (*image)[page] = bytes.substr(i * kPageSize, kPageSize);
    }
  }
  if (put_back) {
    tracker_->PutBack(unreadable);
    return;
  }
  for (const PageRange& run : unreadable.runs()) {
    // A session counts such pages as gone. Only a back end that cannot see markers may need it.
    if (back_end_.sees_markers()) {
      ADD_FAILURE() << "frozen, but unreadable: page " << std::hex << run.first;
    }
    image->erase(image->lower_bound(run.first), image->lower_bound(run.end()));
  }
}

TakenPages TrackerRig::Epoch(const EpochOptions& options) {
  Image next = image_;
  TakenPages all;
  if (options.arm_new) {
    const std::lock_guard<std::mutex> freezing(freezing_);
    still_(true);
    const auto writers_go_on = absl::MakeCleanup([this] { still_(false); });
    auto frozen = FrozenProcess::Freeze(*process_);
    EXPECT_TRUE(frozen.ok()) << frozen.status();
    const MemoryMap map = Maps();
    const absl::Status status = tracker_->ArmNew(map);
    EXPECT_TRUE(status.ok()) << status;
    // Nothing is left but what cannot be registered.
    const auto unarmed = tracker_->CountUnarmed(map);
    // (For soft-dirty a page that the kernel moves, KSM's or a migrated one, is another page.)
    EXPECT_TRUE(unarmed.ok() && (*unarmed == 0 || back_end_.soft_dirty() ||
                                 !tracker_->warnings().empty()));
  }
  for (int round = 0; round < options.running_rounds; ++round) {
    auto taken = tracker_->TakeRunning(Maps());
    EXPECT_TRUE(taken.ok()) << taken.status();
    if (!taken.ok()) return all;
    Copy(taken->written, /*put_back=*/true, &next);
    all.written.Add(taken->written);
  }
  if (options.before_freeze) options.before_freeze();
  std::unique_lock<std::mutex> freezing(freezing_);
  still_(true);
  const auto writers_go_on = absl::MakeCleanup([this] { still_(false); });
  auto frozen = FrozenProcess::Freeze(*process_);
  EXPECT_TRUE(frozen.ok()) << frozen.status();
  if (!frozen.ok()) return all;
  const MemoryMap map = Maps();
  auto taken = tracker_->TakeFrozen(map);
  EXPECT_TRUE(taken.ok()) << taken.status();
  if (!taken.ok()) return all;
  EXPECT_TRUE(taken->gone.Intersect(taken->written).empty());
  Copy(taken->written, /*put_back=*/false, &next);
  for (const PageRange& run : taken->gone.runs()) {
    next.erase(next.lower_bound(run.first), next.lower_bound(run.end()));
  }
  CheckAgainstTruth(map, next, options.deep);
  EXPECT_TRUE((*std::move(frozen)).Thaw().ok());
  freezing.unlock();
  all.written.Add(taken->written);
  all.gone = taken->gone;
  all.pages_scanned = taken->pages_scanned;
  if (options.fail) {
    tracker_->EpochFailed();
  } else {
    tracker_->EpochDurable();
    image_ = std::move(next);
  }
  return all;
}

void TrackerRig::CheckAgainstTruth(const MemoryMap& map, const Image& image, bool deep) {
  const Truth truth(*process_);
  size_t of_image_seen = 0;
  int complaints = 0;
  for (const MemoryMapping& mapping : map) {
    const MappingClass mapping_class = ClassifyMapping(mapping);
    const auto begin = image.lower_bound(mapping.pages().first);
    const auto end = image.lower_bound(mapping.pages().end());
    if (mapping_class == MappingClass::kKernelOwned ||
        mapping_class == MappingClass::kSharedReadOnly) {
      EXPECT_EQ(begin, end) << "saved, but not ours to save: " << mapping.name;
      of_image_seen += std::distance(begin, end);
      continue;
    }
    of_image_seen += std::distance(begin, end);
    // No memory of a process, and refused by sessions.
    if (absl::StrContains(mapping.name, "[io_uring]") || absl::StrContains(mapping.name, "[aio]")) {
      continue;
    }
    const bool shared = mapping_class == MappingClass::kSharedWritable;
    ScopedFd object;
    if (mapping.is_file()) object = truth.Object(mapping);
    struct stat facts{};
    if (object.ok()) ::fstat(object.get(), &facts);
    const std::vector<bool> own = truth.Own(mapping.pages());
    for (uint64_t page = mapping.pages().first; page < mapping.pages().end(); ++page) {
      const auto saved = image.find(page);
      if (saved == image.end() && !shared && !deep && !own[page - mapping.pages().first]) continue;
      std::string is, background = ZeroPage();
      if (shared) {
        is = truth.ThroughObject(object.get(), mapping, page);
        const uint64_t page_end = mapping.offset + ((page + 1) * kPageSize - mapping.start);
        // The last page's tail is to be seen through the mapping alone.
        if (!is.empty() && page_end > static_cast<uint64_t>(facts.st_size)) {
          is = truth.ThroughProcess(page);
        }
      } else {
        if (mapping_class == MappingClass::kPrivateFile) {
          background = truth.ThroughObject(object.get(), mapping, page);
        }
        is = deep || own[page - mapping.pages().first] ? truth.ThroughProcess(page) : background;
      }
      if (is.empty()) {
        if (saved != image.end()) {
          ADD_FAILURE() << "saved, but unreadable: " << std::hex << page;
        }
        continue;
      }
      if (saved == image.end() && !own[page - mapping.pages().first] && mapping.is_file()) {
        // The file's last page: beyond its end bytes show that no read of the file shows.
        const uint64_t offset = mapping.offset + (page * kPageSize - mapping.start);
        const uint64_t size = facts.st_size;
        if (!shared && size > offset && size < offset + kPageSize) {
          is.resize(size - offset);
          background.resize(size - offset);
        }
      }
      if ((saved == image.end() ? background : saved->second) == is) continue;
      if (++complaints > 10) continue;
      ADD_FAILURE() << (saved == image.end() ? "not saved" : "saved with other bytes") << ": page "
                    << std::hex << page << " of " << mapping.start << "-" << mapping.end << " \""
                    << mapping.name << "\" " << (mapping.shared ? "shared" : "private") << " prot "
                    << mapping.prot << " offset " << mapping.offset << " file size "
                    << facts.st_size << " entry=" << truth.Entry(page) << " own=" << own[page - mapping.pages().first]
                    << " saved " << Hex(saved == image.end() ? background : saved->second) << " is " << Hex(is);
    }
  }
  EXPECT_EQ(of_image_seen, image.size()) << "pages saved where nothing is mapped";
}

}  // namespace incr
