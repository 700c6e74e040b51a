#include "store/repair_packs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/page_range.h"
#include "base/status.h"
#include "store/epoch_walk.h"
#include "store/pack_check.h"
#include "store/pack_reader.h"
#include "store/pack_set.h"
#include "store/pack_writer.h"
#include "store/page_index.h"
#include "store/worker_pool.h"

namespace incr {
namespace {

constexpr uint64_t kNewPackBytes = 256u << 20;

bool ById(const IndexEntry& a, const IndexEntry& b) { return a.id < b.id; }

void SortUnique(std::vector<IndexEntry>* entries) {
  std::stable_sort(entries->begin(), entries->end(), ById);
  entries->erase(std::unique(entries->begin(), entries->end(),
                             [](const IndexEntry& a, const IndexEntry& b) { return a.id == b.id; }),
                 entries->end());
}

class Rebuild {
 public:
  Rebuild(const StorePaths& paths, const std::string& new_packs, const StoreIdentity& identity, const KvDb* source, bool dry_run,
          const std::function<void(uint64_t)>& progress, KvDb* into)
      : paths_(paths),
        io_(paths.io),
        new_packs_(new_packs),
        tag_(identity.tag),
        source_(source),
        dry_run_(dry_run),
        into_(into),
        hasher_(identity.secret),
        reader_(paths.packs, &hasher_, io_),
        new_reader_(new_packs, &hasher_, io_),
        workers_(0),
        checker_(paths.packs, identity.tag, &reader_, &workers_, progress, io_) {}

  absl::StatusOr<RebuiltPacks> Run(bool trusted) {
    INCR_RETURN_IF_ERROR(FindPacks(trusted));
    std::vector<uint32_t> packs;
    for (const auto& [pack, length] : lengths_) packs.push_back(pack);
    absl::Status status;
    const auto one = [&](uint32_t pack, absl::Span<const IndexEntry> entries) {
      if (status.ok()) status = TakePack(pack, entries);
    };
    if (source_ != nullptr) {
      ForEachPack(*source_, packs, one);
    } else {
      for (const uint32_t pack : packs) one(pack, {});
    }
    INCR_RETURN_IF_ERROR(status);
    return std::move(result_);
  }

 private:
  absl::Status FindPacks(bool trusted) {
    INCR_ASSIGN_OR_RETURN(const std::vector<uint32_t> present, ListPacks(paths_.packs));
    std::map<uint32_t, uint64_t> committed;
    if (source_ != nullptr) {
      absl::StatusOr<std::map<uint32_t, uint64_t>> known = ReadPackLengths(*source_);
      if (trusted) INCR_RETURN_IF_ERROR(known.status());
      if (known.ok()) committed = *std::move(known);
    }
    if (!present.empty()) last_pack_ = present.back();
    if (!committed.empty()) last_pack_ = std::max(last_pack_, committed.rbegin()->first);
    for (const uint32_t pack : present) {
      struct stat info = {};
      (void)::lstat(PathOf(pack).c_str(), &info);
      const auto known = committed.find(pack);
      if (trusted && known == committed.end()) continue;  // The next writer removes it.
      lengths_[pack] = trusted ? known->second : uint64_t(info.st_size);
    }
    if (trusted) lengths_.insert(committed.begin(), committed.end());  // Missing ones.
    return absl::OkStatus();
  }

  std::string PathOf(uint32_t pack) const { return absl::StrCat(paths_.packs, "/", PackName(pack)); }

  absl::Status TakePack(uint32_t pack, absl::Span<const IndexEntry> entries) {
    PackCheck check = checker_.Check(pack, lengths_.at(pack), entries);
    INCR_RETURN_IF_ERROR(check.hindered);
    result_.bodies_lost += check.lost.size();
    SortUnique(&check.intact);
    result_.pages += check.intact.size();
    if (!check.damage.empty()) {
      result_.damaged.push_back(pack);
      if (!dry_run_) return Rewrite(check.intact);
    } else {
      INCR_RETURN_IF_ERROR(SyncPack(pack));
    }
    const PackLength length{pack, lengths_.at(pack)};
    return WriteIndex(*into_, {&length, 1}, check.intact);
  }

  // What the index is about to refer to may never have been synced.
  absl::Status SyncPack(uint32_t pack) {
    INCR_ASSIGN_OR_RETURN(const ScopedFd fd, io_.Open(PathOf(pack), O_RDONLY));
    return io_.Sync(fd.get(), PathOf(pack));
  }

  absl::Status Rewrite(std::vector<IndexEntry>& bodies) {
    const absl::Status status = CopyBodies(bodies);
    if (!status.ok() && writer_) writer_->Abandon();
    return status;
  }

  // As they are, in their order.
  absl::Status CopyBodies(std::vector<IndexEntry>& bodies) {
    std::sort(bodies.begin(), bodies.end(), [](const IndexEntry& a, const IndexEntry& b) {
      return a.location.offset < b.location.offset;
    });
    PackWriter::Settings settings{new_packs_, tag_, kNewPackBytes,
                                  [this]() -> absl::StatusOr<uint32_t> { return ++last_pack_; }, io_};
    if (!writer_) {
      INCR_ASSIGN_OR_RETURN(writer_, PackWriter::Create(std::move(settings)));
    }
    uint8_t body[kBlockBytes];
    for (IndexEntry& entry : bodies) {
      const PageLocation from = entry.location;
      INCR_RETURN_IF_ERROR(reader_.ReadRun(from.pack, from.offset, from.length, body));
      INCR_RETURN_IF_ERROR(writer_->Append(entry.id, body, from.length, from.encoding, &entry.location));
    }
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_rewrite"));
    INCR_RETURN_IF_ERROR(writer_->Finish());
    uint8_t page[kPageSize];
    for (const IndexEntry& entry : bodies) {
      INCR_RETURN_IF_ERROR(new_reader_.ReadPage(entry.id, entry.location, page));
    }
    return WriteIndex(*into_, writer_->finished(), bodies);
  }

  const StorePaths& paths_;
  const FileIo io_;
  const std::string new_packs_;
  const uint64_t tag_;
  const KvDb* const source_;
  const bool dry_run_;
  KvDb* const into_;
  const PageHasher hasher_;
  const PackReader reader_, new_reader_;
  WorkerPool workers_;
  PackChecker checker_;
  std::map<uint32_t, uint64_t> lengths_;  // of the packs to read
  uint32_t last_pack_ = 0;
  std::unique_ptr<PackWriter> writer_;
  RebuiltPacks result_;
};

}  // namespace

absl::StatusOr<RebuiltPacks> RebuildPacks(const StorePaths& paths, const std::string& new_packs, const StoreIdentity& identity,
                                          const KvDb* source, bool trusted, bool dry_run,
                                          const std::function<void(uint64_t bytes)>& progress, KvDb* into) {
  return Rebuild(paths, new_packs, identity, source, dry_run, progress, into).Run(trusted);
}

}  // namespace incr
