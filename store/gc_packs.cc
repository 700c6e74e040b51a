// Packs that hold little or nothing that anybody refers to, and their way off the disk.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/page_range.h"
#include "base/status.h"
#include "store/commit_count.h"
#include "store/gc.h"
#include "store/page_index.h"
#include "store/zstd_page.h"

namespace incr {
namespace {

// So many bodies, or a segment more, are entered at their new place at once.
constexpr size_t kMoveBodies = kIngestEntries - 1;
// What a body costs in a pack besides its bytes: its entry and its part of header and padding.
constexpr uint64_t kBodyOverhead = kSegmentEntryBytes + 1;
// A thorough gc leaves at most this share of the live bytes unused in packs.
constexpr uint64_t kWastedShare = 20;
constexpr useconds_t kReaderPollUs = 50'000;

struct Body {
  IndexEntry from;
  PageLocation to;
};

bool ById(const Body& a, const Body& b) { return a.from.id < b.from.id; }

// Moves live bodies of packs into others.
class BodyMover {
 public:
  BodyMover(const StoreView& view, std::unique_ptr<PackWriter> writer, bool zstd)
      : view_(view), writer_(std::move(writer)), zstd_(zstd) {}

  // The live ones of a segment of `pack`, of which `segment` holds the bytes. 0: no segment is here;
  // otherwise its length. `damaged` counts bodies that do not match their ids: they stay.
  absl::StatusOr<size_t> AddSegment(uint32_t pack, uint64_t at, const uint8_t* segment,
                                    size_t available, uint64_t* damaged) {
    if (available < kSegmentHeaderBytes) return 0;
    const auto header = DecodeSegmentHeader(segment, pack, at, view_.identity.tag);
    if (!header.ok() || header->total_bytes > available) return 0;
    const auto table = DecodeSegmentTable(*header, segment);
    if (!table.ok()) return 0;
    std::vector<Body> bodies;
    for (const SegmentEntry& entry : *table) {
      bodies.push_back({{entry.id, {pack, at + entry.offset, entry.length, entry.encoding}}, {}});
    }
    INCR_RETURN_IF_ERROR(KeepThoseInPlace(&bodies, /*moved=*/false));
    for (Body& body : bodies) {
      const PageLocation& from = body.from.location;
      const uint8_t* bytes = segment + (from.offset - at);
      uint8_t page[kPageSize];
      if (!view_.packs.Decode(body.from.id, from, bytes, page).ok()) {
        ++*damaged;
        continue;
      }
      INCR_RETURN_IF_ERROR(Append(&body, bytes, page));
      bodies_.push_back(body);
    }
    return header->total_bytes;
  }

  size_t waiting() const { return bodies_.size(); }

  // Makes the copies durable and reads each back: what is verified is what the disk has.
  absl::Status Finish() {
    INCR_RETURN_IF_ERROR(writer_->Finish());
    for (const Body& body : bodies_) {
      uint8_t page[kPageSize];
      INCR_RETURN_IF_ERROR(view_.packs.ReadPage(body.from.id, body.to, page));
    }
    return absl::OkStatus();
  }

  // Under the commit lock: the index says where they are now.
  absl::Status Enter(PackSet* packs) {
    INCR_RETURN_IF_ERROR(KeepThoseInPlace(&bodies_, /*moved=*/true));
    std::vector<IndexEntry> entries;
    for (const Body& body : bodies_) entries.push_back({body.from.id, body.to});
    INCR_RETURN_IF_ERROR(WriteIndex(*view_.db, writer_->finished(), entries));
    packs->Committed(writer_->finished());
    bodies_.clear();
    return absl::OkStatus();
  }

  std::unique_ptr<PackWriter> GiveBack(bool failed) {
    if (failed) writer_->Abandon();
    (void)writer_->TakeBytesWritten();
    return std::move(writer_);
  }

 private:
  // Leaves those that the index still has where they came from.
  absl::Status KeepThoseInPlace(std::vector<Body>* bodies, bool moved) const {
    std::sort(bodies->begin(), bodies->end(), ById);
    std::vector<PageId> ids;
    for (const Body& body : *bodies) ids.push_back(body.from.id);
    std::vector<bool> in_place(ids.size());
    INCR_RETURN_IF_ERROR(FindPages(*view_.db, ids, [&](size_t i, const PageLocation& location) {
      in_place[i] = location == (*bodies)[i].from.location;
      return absl::OkStatus();
    }));
    size_t kept = 0;
    for (size_t i = 0; i < bodies->size(); ++i) {
      if (in_place[i]) (*bodies)[kept++] = (*bodies)[i];
    }
    bodies->resize(kept);
    if (moved) return absl::OkStatus();
    std::sort(bodies->begin(), bodies->end(), [](const Body& a, const Body& b) {
      return a.from.location.offset < b.from.location.offset;
    });
    return absl::OkStatus();
  }

  absl::Status Append(Body* body, const uint8_t* bytes, const uint8_t* page) {
    const PageLocation& from = body->from.location;
    uint8_t smaller[kPageSize];
    const size_t length = zstd_ && from.encoding != PageEncoding::kZstd
                              ? CompressZstdPage(page, smaller, from.length)
                              : 0;
    if (length == 0) {
      return writer_->Append(body->from.id, bytes, from.length, from.encoding, &body->to);
    }
    return writer_->Append(body->from.id, smaller, length, PageEncoding::kZstd, &body->to);
  }

  const StoreView& view_;
  std::unique_ptr<PackWriter> writer_;
  const bool zstd_;
  std::vector<Body> bodies_;
};

}  // namespace

std::vector<uint32_t> GcRun::DeadPacks() const {
  std::vector<uint32_t> dead;
  for (const auto& [pack, bytes] : lengths_) {
    if (use_.count(pack) == 0) dead.push_back(pack);
  }
  return dead;
}

std::vector<uint32_t> GcRun::SparsePacks() const {
  struct Pack {
    uint32_t pack;
    uint64_t live, wasted;
  };
  std::vector<Pack> packs;
  uint64_t live = 0, wasted = 0;
  for (const auto& [pack, use] : use_) {
    const auto length = lengths_.find(pack);
    if (length == lengths_.end()) continue;
    const uint64_t used = use.bytes + use.entries * kBodyOverhead;
    packs.push_back({pack, used, length->second - std::min(used, length->second)});
    live += packs.back().live;
    wasted += packs.back().wasted;
  }
  std::sort(packs.begin(), packs.end(), [](const Pack& a, const Pack& b) {
    return a.wasted * (b.live + 1) > b.wasted * (a.live + 1);  // by wasted share
  });
  std::vector<uint32_t> sparse;
  for (const Pack& pack : packs) {
    const bool mostly_dead = pack.live < pack.wasted;
    const bool worth_it = options_.thorough && wasted > live / kWastedShare &&
                          pack.wasted > pack.live / kWastedShare && pack.wasted >= 64 << 10;
    if (!mostly_dead && !worth_it) continue;
    wasted -= pack.wasted;
    sparse.push_back(pack.pack);
  }
  return sparse;
}

absl::Status GcRun::CleanPacks() {
  // The dead first: that frees room for the copies.
  const std::vector<uint32_t> dead = DeadPacks();
  INCR_RETURN_IF_ERROR(DeletePacks({dead.begin(), dead.end()}));
  std::vector<uint32_t> sparse = SparsePacks();
  // All at once: the copies of one must not go into another. One that is being appended to: another time.
  std::erase_if(sparse, [&](uint32_t pack) {
    return !store_.packs_->Retire(pack, lengths_.at(pack));
  });
  for (const uint32_t pack : sparse) {
    INCR_RETURN_IF_ERROR(RewritePack(pack, lengths_.at(pack)));
    ++result_.packs_rewritten;
  }
  return DeletePacks({sparse.begin(), sparse.end()});
}

absl::Status GcRun::RewritePack(uint32_t pack, uint64_t bytes) {
  const StoreView& view = *store_.view_;
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<PackWriter> writer, store_.packs_->CheckOut());
  BodyMover mover(view, std::move(writer), options_.recompress_zstd);
  bool failed = true;
  absl::Cleanup give_back = [&] { store_.packs_->CheckIn(mover.GiveBack(failed)); };
  const std::string path = absl::StrCat(view.paths.packs, "/", PackName(pack));
  const FileIo io = view.paths.io;
  const absl::StatusOr<ScopedFd> opened = io.Open(path, O_RDONLY);
  if (absl::IsNotFound(opened.status())) {
    // Deleted for want of room by an earlier run, or lost. What still points to it keeps its record.
    result_.warnings.push_back(absl::StrCat("pack ", path, " is gone (incr-ckpt verify says whether an epoch misses it)"));
    return absl::OkStatus();
  }
  INCR_RETURN_IF_ERROR(opened.status());
  const ScopedFd& fd = *opened;
  std::vector<uint8_t> segment(kSegmentMaxBytes);
  uint64_t damaged = 0;
  const auto enter = [&]() -> absl::Status {
    INCR_RETURN_IF_ERROR(mover.Finish());
    failed = false;  // Durable: no longer to be cut off.
    INCR_RETURN_IF_ERROR(FaultPoint("store.gc_after_copy"));
    absl::MutexLock commits(&store_.commit_mutex_);
    INCR_RETURN_IF_ERROR(mover.Enter(store_.packs_.get()));
    return FaultPoint("store.gc_after_move");
  };
  for (uint64_t at = kPackHeaderBytes; at < bytes;) {
    INCR_ASSIGN_OR_RETURN(
        const size_t n, io.PreadUpTo(fd.get(), segment.data(),
                                     std::min<uint64_t>(kSegmentMaxBytes, bytes - at), at, path));
    failed = true;
    INCR_ASSIGN_OR_RETURN(const size_t used,
                          mover.AddSegment(pack, at, segment.data(), n, &damaged));
    at += used == 0 ? kBlockBytes : used;  // Not a segment: one may begin at any later block.
    if (mover.waiting() >= kMoveBodies) INCR_RETURN_IF_ERROR(enter());
    INCR_RETURN_IF_ERROR(Progress("copying", at, bytes));
  }
  INCR_RETURN_IF_ERROR(enter());
  if (damaged > 0) {
    result_.warnings.push_back(absl::StrCat(
        "pack ", path, " stays: ", damaged, " pages in it are damaged (incr-ckpt verify names them)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::set<uint32_t>> GcRun::StillReferredTo(const std::set<uint32_t>& packs) const {
  std::set<uint32_t> referred;
  std::string from;
  for (size_t rows = SIZE_MAX; rows != 0;) {
    rows = 0;
    INCR_RETURN_IF_ERROR(store_.view_->db->ScanSome(
        KvTable::kPages, from, 1u << 16, [&](absl::string_view key, absl::string_view value) {
          ++rows;
          from.assign(key.data(), key.size());
          const absl::StatusOr<PageLocation> location = DecodeLocation(value);
          if (location.ok() && packs.count(location->pack) != 0) referred.insert(location->pack);
          return absl::OkStatus();
        }));
    from.push_back('\0');
    INCR_RETURN_IF_ERROR(Progress("checking", 0, 0));
  }
  return referred;
}

// Takes those out that somebody may still read.
absl::Status GcRun::AwaitReaders(std::set<uint32_t>* packs) {
  std::map<uint32_t, uint64_t>& last = store_.unread_from_;
  if (std::any_of(packs->begin(), packs->end(), [&](uint32_t p) { return last.count(p) == 0; })) {
    INCR_ASSIGN_OR_RETURN(const uint64_t generation, store_.readers_->Advance());
    // An earlier gc may have noted an earlier one: whoever came since needs the pack no more.
    for (const uint32_t pack : *packs) last.try_emplace(pack, generation);
  }
  for (const Stopwatch waited;; ::usleep(kReaderPollUs)) {
    std::set<uint32_t> read;
    for (const uint32_t pack : *packs) {
      INCR_ASSIGN_OR_RETURN(const bool readers, store_.readers_->HasReadersUpTo(last.at(pack)));
      if (readers) read.insert(pack);
    }
    if (!read.empty() && waited.elapsed_us() <= options_.reader_patience_us) {
      INCR_RETURN_IF_ERROR(Progress("waiting for readers", 0, 0));
      continue;
    }
    for (const uint32_t pack : read) {
      ++result_.packs_waiting;
      result_.bytes_waiting += lengths_.at(pack);
      packs->erase(pack);
    }
    return absl::OkStatus();
  }
}

absl::Status GcRun::DeletePacks(std::set<uint32_t> packs) {
  std::erase_if(packs, [&](uint32_t pack) { return !store_.packs_->Retire(pack, lengths_.at(pack)); });
  if (packs.empty()) return absl::OkStatus();
  KvDb& db = *store_.view_->db;
  // What made them dead must not come back with the log's unsynced end.
  INCR_RETURN_IF_ERROR(db.Sync());
  // Nobody appends to them any more: what this finds is all that there can be.
  INCR_ASSIGN_OR_RETURN(const std::set<uint32_t> referred, StillReferredTo(packs));
  for (const uint32_t pack : referred) packs.erase(pack);
  if (packs.empty()) return absl::OkStatus();
  INCR_RETURN_IF_ERROR(FaultPoint("store.gc_before_delete"));
  INCR_RETURN_IF_ERROR(AwaitReaders(&packs));
  if (packs.empty()) return absl::OkStatus();
  KvBatch batch;
  for (const uint32_t pack : packs) AddForgetPack(&batch, pack);
  INCR_RETURN_IF_ERROR(WriteCounted(std::move(batch)));
  INCR_RETURN_IF_ERROR(FaultPoint("store.gc_after_forget"));
  store_.packs_->Forget({packs.begin(), packs.end()});
  return UnlinkPacks(packs);
}

// Counted as a commit is: a log that ends before it must not be believed, since it speaks of packs that are
// no more.
absl::Status GcRun::WriteCounted(KvBatch batch) {
  absl::MutexLock lock(&store_.commit_mutex_);
  KvDb& db = *store_.view_->db;
  INCR_ASSIGN_OR_RETURN(const uint64_t commits, CommitCount(db));
  INCR_RETURN_IF_ERROR(CheckCommitCount(store_.view_->paths, commits, store_.commits_->count()));
  AddCommitCount(&batch, commits + 1);
  INCR_RETURN_IF_ERROR(db.Write(batch, /*sync=*/true));
  return store_.commits_->Write(commits + 1);
}

absl::Status GcRun::UnlinkPacks(const std::set<uint32_t>& packs) {
  const FileIo io = store_.view_->paths.io;
  for (const uint32_t pack : packs) {
    store_.view_->packs.Forget(pack);
    store_.unread_from_.erase(pack);
    const std::string path = absl::StrCat(store_.view_->paths.packs, "/", PackName(pack));
    const absl::Status gone = io.Unlink(path);
    result_.packs_deleted += gone.ok();
    // It may have gone already, for want of room.
    if (!absl::IsNotFound(gone)) INCR_RETURN_IF_ERROR(gone);
    INCR_RETURN_IF_ERROR(FaultPoint("store.gc_after_unlink"));
  }
  return io.SyncDirectory(store_.view_->paths.packs);
}

void GcRun::EstimateBytesAfter() {
  uint64_t freed = dropped_record_bytes_ + result_.pages_dropped * 36;
  for (const uint32_t pack : DeadPacks()) freed += lengths_.at(pack);
  for (const uint32_t pack : SparsePacks()) {
    const PackUse& use = use_.at(pack);
    freed += lengths_.at(pack) -
             std::min(lengths_.at(pack), use.bytes + use.entries * kBodyOverhead + kPackHeaderBytes);
  }
  result_.bytes_after = result_.bytes_before - std::min(freed, result_.bytes_before);
}

}  // namespace incr
