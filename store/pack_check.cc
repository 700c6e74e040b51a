#include "store/pack_check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/page_range.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr int kMostInFlight = 16;  // segments, 1 MiB each
constexpr size_t kBodiesPerTask = 256;

bool AllZero(const uint8_t* from, const uint8_t* to) {
  return std::all_of(from, to, [](uint8_t byte) { return byte == 0; });
}

// What the workers find out, put together.
class Findings {
 public:
  explicit Findings(WorkerPool* workers) : workers_(workers) {}
  ~Findings() { Await(0); }

  void Run(std::function<void(PackCheck*)> task) {
    Await(kMostInFlight - 1);
    {
      absl::MutexLock lock(&mutex_);
      ++running_;
    }
    workers_->Run([this, task = std::move(task)] {
      PackCheck part;
      task(&part);
      absl::MutexLock lock(&mutex_);
      Merge(std::move(part));
      --running_;
    });
  }
  void Add(PackCheck part) {
    absl::MutexLock lock(&mutex_);
    Merge(std::move(part));
  }
  PackCheck Take() {
    Await(0);
    std::sort(all_.damage.begin(), all_.damage.end(), [](const PackDamage& a, const PackDamage& b) {
      return a.pack != b.pack ? a.pack < b.pack : a.offset < b.offset;
    });
    return std::move(all_);
  }

 private:
  void Await(int most) {
    absl::MutexLock lock(&mutex_);
    const auto few = [&] { return running_ <= most; };
    mutex_.Await(absl::Condition(&few));
  }
  void Merge(PackCheck part) {
    all_.segments += part.segments;
    all_.bodies += part.bodies;
    all_.bytes += part.bytes;
    const auto append = [](auto& to, auto& from) {
      to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
    };
    append(all_.damage, part.damage);
    append(all_.intact, part.intact);
    append(all_.lost, part.lost);
    all_.hindered.Update(part.hindered);
  }

  WorkerPool* const workers_;
  absl::Mutex mutex_;
  int running_ = 0;
  PackCheck all_;
};

bool IsHindrance(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsPermissionDenied(status);
}

void CheckOne(const PackReader& reader, const IndexEntry& entry, const uint8_t* body, PackCheck* out) {
  uint8_t page[kPageSize];
  absl::Status status = body == nullptr ? reader.ReadPage(entry.id, entry.location, page)
                                        : reader.Decode(entry.id, entry.location, body, page);
  // A read error, which may not come again.
  if (!status.ok() && !absl::IsDataLoss(status)) status = reader.ReadPage(entry.id, entry.location, page);
  ++out->bodies;
  if (status.ok()) {
    out->intact.push_back(entry);
    return;
  }
  out->lost.push_back(entry);
  if (IsHindrance(status)) out->hindered.Update(status);
  const bool expected = absl::IsDataLoss(status);
  out->damage.push_back({entry.location.pack, entry.location.offset, entry.location.length,
                         expected ? absl::StrCat("page ", PageIdText(entry.id), " does not match its hash")
                                  : std::string(status.message())});
}

struct Segment {
  uint32_t pack;
  uint64_t at;
  SegmentHeader header;
  std::vector<uint8_t> bytes;
};

// A whole segment in memory, and the index entries that point into it.
void CheckSegment(const PackReader& reader, const Segment& segment, absl::Span<const IndexEntry> index,
                  PackCheck* out) {
  out->bytes += segment.header.total_bytes;
  absl::StatusOr<std::vector<SegmentEntry>> table = DecodeSegmentTable(segment.header, segment.bytes.data());
  const size_t table_at = kSegmentHeaderBytes + segment.header.body_bytes;
  if (!table.ok()) {
    out->damage.push_back({segment.pack, segment.at + table_at,
                           segment.header.entry_count * kSegmentEntryBytes, "segment table damaged"});
    table = std::vector<SegmentEntry>();
  } else {
    ++out->segments;
    const uint8_t* const padding =
        segment.bytes.data() + table_at + segment.header.entry_count * kSegmentEntryBytes;
    if (!AllZero(padding, segment.bytes.data() + segment.header.total_bytes)) {
      out->damage.push_back({segment.pack, segment.at + (padding - segment.bytes.data()),
                             segment.header.total_bytes - size_t(padding - segment.bytes.data()),
                             "the padding of a segment is not zero"});
    }
  }
  std::sort(table->begin(), table->end(),
            [](const SegmentEntry& a, const SegmentEntry& b) { return a.offset < b.offset; });
  auto known = index.begin();
  const auto check_index_until = [&](uint64_t offset, const IndexEntry* same) {
    for (; known != index.end() && known->location.offset <= offset; ++known) {
      if (same != nullptr && known->id == same->id && known->location == same->location) continue;
      CheckOne(reader, *known, nullptr, out);
    }
  };
  for (const SegmentEntry& entry : *table) {
    const IndexEntry body{entry.id, {segment.pack, segment.at + entry.offset, entry.length, entry.encoding}};
    if (body.location.offset > 0) check_index_until(body.location.offset - 1, nullptr);
    CheckOne(reader, body, segment.bytes.data() + entry.offset, out);
    check_index_until(body.location.offset, &body);
  }
  check_index_until(UINT64_MAX, nullptr);
}

// Walks one pack from segment to segment.
class Walk {
 public:
  Walk(FileIo io, const std::string& path, uint32_t pack, uint64_t tag, const PackReader& reader,
       Findings* findings)
      : io_(io), path_(path), pack_(pack), tag_(tag), reader_(reader), findings_(findings) {}

  // Returns where the readable part ends.
  uint64_t Open(uint64_t length) {
    absl::StatusOr<ScopedFd> fd = io_.Open(path_, O_RDONLY | O_NONBLOCK);
    struct stat info = {};
    if (!fd.ok() || ::fstat(fd->get(), &info) != 0 || !S_ISREG(info.st_mode)) {
      if (IsHindrance(fd.status())) {
        PackCheck part;
        part.hindered = fd.status();
        findings_->Add(std::move(part));
      }
      Damage(0, length, fd.ok() ? "not a regular file" : std::string(fd.status().message()));
      return 0;
    }
    fd_ = *std::move(fd);
    // From the disk, not from what memory remembers of it.
    ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
    ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    const uint64_t size = info.st_size;
    const uint64_t expected = std::max<uint64_t>(length, kPackHeaderBytes);
    if (size < expected) Damage(size, expected - size, "cut short");
    CheckHeader(size);
    return std::min(size, length);
  }

  void Run(uint64_t end, absl::Span<const IndexEntry> index, const std::function<void(uint64_t)>& on_bytes) {
    uint64_t gap = 0;  // bytes before `at` in which no segment begins
    for (uint64_t at = kPackHeaderBytes; at < end;) {
      Segment segment{pack_, at, {}, {}};
      if (!Read(end, &segment)) {
        at += kBlockBytes;
        gap += kBlockBytes;
        continue;
      }
      if (gap > 0) Gap(at - gap, gap, TakeUntil(at, &index));
      gap = 0;
      at += segment.header.total_bytes;
      auto entries = TakeUntil(at, &index);
      auto shared = std::make_shared<Segment>(std::move(segment));
      findings_->Run([this, shared, entries](PackCheck* out) { CheckSegment(reader_, *shared, entries, out); });
      on_bytes(shared->header.total_bytes);
    }
    if (gap > 0) Gap(std::max<uint64_t>(end, kPackHeaderBytes) - gap, gap, TakeUntil(end, &index));
    PackCheck beyond;  // Said already: "cut short", "no such file".
    beyond.lost.assign(index.begin(), index.end());
    findings_->Add(std::move(beyond));
  }
  void DropCache() {
    if (fd_.ok()) ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
  }

 private:
  void Damage(uint64_t offset, uint64_t bytes, std::string what) {
    PackCheck part;
    part.damage.push_back({pack_, offset, bytes, std::move(what)});
    findings_->Add(std::move(part));
  }

  void CheckHeader(uint64_t size) {
    uint8_t header[kPackHeaderBytes];
    if (size < sizeof header) return;  // "cut short" says it.
    absl::Status status = ReadTwice(header, sizeof header, 0);
    if (status.ok()) status = CheckPackHeader(header, pack_, tag_);
    if (status.ok() && !AllZero(header + 32, header + sizeof header)) {
      status = absl::DataLossError("the padding of the pack header is not zero");
    }
    if (!status.ok()) Damage(0, kPackHeaderBytes, std::string(status.message()));
  }

  bool Read(uint64_t end, Segment* segment) {
    uint8_t header[kSegmentHeaderBytes];
    if (!ReadTwice(header, sizeof header, segment->at).ok()) return false;
    absl::StatusOr<SegmentHeader> decoded = DecodeSegmentHeader(header, pack_, segment->at, tag_);
    if (!decoded.ok() || decoded->total_bytes > end - segment->at) return false;
    segment->header = *decoded;
    segment->bytes.resize(decoded->total_bytes);
    return ReadTwice(segment->bytes.data(), segment->bytes.size(), segment->at).ok();
  }

  // A disk that fails once may not fail again.
  absl::Status ReadTwice(uint8_t* to, size_t bytes, uint64_t at) {
    if (io_.PreadExactly(fd_.get(), to, bytes, at, path_).ok()) return absl::OkStatus();
    return io_.PreadExactly(fd_.get(), to, bytes, at, path_);
  }

  static absl::Span<const IndexEntry> TakeUntil(uint64_t end, absl::Span<const IndexEntry>* index) {
    size_t n = 0;
    while (n < index->size() && (*index)[n].location.offset < end) ++n;
    const absl::Span<const IndexEntry> taken = index->subspan(0, n);
    index->remove_prefix(n);
    return taken;
  }

  void Gap(uint64_t at, uint64_t bytes, absl::Span<const IndexEntry> index) {
    if (bytes > 0) Damage(at, bytes, "no segment where one should be");
    findings_->Run([this, index](PackCheck* out) {
      for (const IndexEntry& entry : index) CheckOne(reader_, entry, nullptr, out);
    });
  }

  const FileIo io_;
  const std::string path_;
  const uint32_t pack_;
  const uint64_t tag_;
  const PackReader& reader_;
  Findings* const findings_;
  ScopedFd fd_;
};

}  // namespace

PackCheck PackChecker::Check(uint32_t pack, uint64_t length, absl::Span<const IndexEntry> index) {
  const std::string path = absl::StrCat(directory_, "/", PackName(pack));
  Findings findings(workers_);
  Walk walk(io_, path, pack, tag_, *reader_, &findings);
  const uint64_t end = walk.Open(length);
  walk.Run(end, index, on_bytes_);
  PackCheck result = findings.Take();
  walk.DropCache();
  result.bytes += std::min<uint64_t>(end, kPackHeaderBytes);
  return result;
}

PackCheck PackChecker::CheckBodies(absl::Span<const IndexEntry> index) {
  Findings findings(workers_);
  while (!index.empty()) {
    const absl::Span<const IndexEntry> part = index.subspan(0, kBodiesPerTask);
    index.remove_prefix(part.size());
    findings.Run([this, part](PackCheck* out) {
      for (const IndexEntry& entry : part) {
        CheckOne(*reader_, entry, nullptr, out);
        out->bytes += entry.location.length;
      }
    });
    uint64_t bytes = 0;
    for (const IndexEntry& entry : part) bytes += entry.location.length;
    on_bytes_(bytes);
  }
  return findings.Take();
}

}  // namespace incr
