#include "store/repair_swap.h"

#include <sys/stat.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/fault_point.h"
#include "base/status.h"
#include "store/commit_count.h"
#include "store/pack_format.h"
#include "store/pack_set.h"

namespace incr {
namespace {

// 1, of older programs: no repair.tmp/packs, new packs are in their place from the beginning.
constexpr char kFirstLine[] = "incr-ckpt repair 2", kOldFirstLine[] = "incr-ckpt repair 1";

bool Exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

struct Ready {
  std::string set_aside;
  std::vector<std::string> packs;  // names
};

absl::StatusOr<Ready> ReadReady(const std::string& path, FileIo io) {
  INCR_ASSIGN_OR_RETURN(const std::string text, io.ReadWhole(path, 64u << 20));
  Ready ready;
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  for (size_t i = 1; i < lines.size(); ++i) {
    absl::string_view line = lines[i];
    if (absl::ConsumePrefix(&line, "set-aside before-repair-")) ready.set_aside = absl::StrCat("before-repair-", line);
    if (absl::ConsumePrefix(&line, "pack ") && PackIdOf(line) != 0) ready.packs.emplace_back(line);
  }
  if (lines.empty() || (lines[0] != kFirstLine && lines[0] != kOldFirstLine) || ready.set_aside.empty() ||
      absl::StrContains(ready.set_aside, "/")) {
    return absl::DataLossError(absl::StrCat(path, " reads otherwise than a repair leaves it: look into it, and "
                                                  "move the directory away to begin anew"));
  }
  return ready;
}

// A damaged count would keep the store from opening; the next writer makes the file from the database's.
absl::Status MoveDamagedCommits(const StorePaths& store, const std::string& aside) {
  if (!Exists(store.commits)) return absl::OkStatus();  // Moved before.
  if (ReadCommitFile(store.commits, store.io).ok() && CheckCommitSlots(store.commits, store.io).ok()) {
    return absl::OkStatus();
  }
  return store.io.Rename(store.commits, absl::StrCat(aside, "/commits"));
}

// Where nobody looks at them yet: the old database does not know them.
absl::Status MoveNewPacksIn(const StorePaths& store, const std::string& from) {
  if (!Exists(from)) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const std::vector<uint32_t> packs, ListPacks(from));
  for (const uint32_t pack : packs) {
    const std::string name = absl::StrCat("/", PackName(pack));
    INCR_RETURN_IF_ERROR(store.io.Rename(from + name, store.packs + name));
  }
  return packs.empty() ? absl::OkStatus() : store.io.SyncDirectory(store.packs);
}

}  // namespace

std::string ChooseSetAside(const StorePaths& store) {
  for (int n = 1;; ++n) {
    const std::string name = absl::StrCat("before-repair-", n);
    if (!Exists(absl::StrCat(store.root, "/", name))) return name;
  }
}

absl::Status WriteReady(const RepairPaths& repair, const std::string& set_aside,
                        const std::vector<uint32_t>& damaged_packs, FileIo io) {
  std::string text = absl::StrCat(kFirstLine, "\nset-aside ", set_aside, "\n");
  for (const uint32_t pack : damaged_packs) absl::StrAppend(&text, "pack ", PackName(pack), "\n");
  return io.WriteDurably(repair.ready, text);
}

absl::StatusOr<std::string> FinishSwap(const StorePaths& store) {
  const RepairPaths repair(store);
  if (!Exists(repair.ready)) return "";
  const FileIo io = store.io;
  INCR_ASSIGN_OR_RETURN(const Ready ready, ReadReady(repair.ready, io));
  const std::string aside = absl::StrCat(store.root, "/", ready.set_aside);
  INCR_RETURN_IF_ERROR(io.MakeDirectory(aside));
  INCR_RETURN_IF_ERROR(io.SyncDirectory(store.root));  // repair.tmp's own name, too
  INCR_RETURN_IF_ERROR(MoveNewPacksIn(store, repair.packs));
  if (Exists(repair.db)) {
    if (Exists(store.db)) INCR_RETURN_IF_ERROR(io.Rename(store.db, absl::StrCat(aside, "/db")));
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_between"));
    INCR_RETURN_IF_ERROR(io.Rename(repair.db, store.db));
    INCR_RETURN_IF_ERROR(io.SyncDirectory(store.root));
    INCR_RETURN_IF_ERROR(io.SyncDirectory(aside));
  }
  INCR_RETURN_IF_ERROR(FaultPoint("store.repair_swapped"));
  if (!ready.packs.empty()) INCR_RETURN_IF_ERROR(io.MakeDirectory(absl::StrCat(aside, "/packs")));
  for (const std::string& pack : ready.packs) {
    const std::string from = absl::StrCat(store.packs, "/", pack);
    if (Exists(from)) INCR_RETURN_IF_ERROR(io.Rename(from, absl::StrCat(aside, "/packs/", pack)));
  }
  INCR_RETURN_IF_ERROR(FaultPoint("store.repair_packs_moved"));
  INCR_RETURN_IF_ERROR(MoveDamagedCommits(store, aside));
  INCR_RETURN_IF_ERROR(io.SyncDirectory(store.packs));
  INCR_RETURN_IF_ERROR(io.SyncDirectory(aside));
  INCR_RETURN_IF_ERROR(io.SyncDirectory(store.root));
  // The ready file last: until then all of this can be done again.
  INCR_RETURN_IF_ERROR(io.Unlink(repair.ready));
  // Nor must it come back: later a pack may have a damaged one's number.
  INCR_RETURN_IF_ERROR(io.SyncDirectory(repair.tmp));
  // What is left of it now is removed by the next repair, if need be.
  (void)io.RemoveTree(repair.tmp);
  return ready.set_aside;
}

}  // namespace incr
