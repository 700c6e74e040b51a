#include "store/repair_swap.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/status.h"
#include "store/commit_count.h"
#include "store/pack_format.h"

namespace incr {
namespace {

constexpr char kFirstLine[] = "incr-ckpt repair 1";

bool Exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

absl::Status MakeDirectory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("mkdir(", path, ")"));
}

absl::Status Move(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("rename(", from, ", ", to, ")"));
}

struct Ready {
  std::string set_aside;
  std::vector<std::string> packs;  // names
};

absl::StatusOr<Ready> ReadReady(const std::string& path) {
  INCR_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  Ready ready;
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  for (size_t i = 1; i < lines.size(); ++i) {
    absl::string_view line = lines[i];
    if (absl::ConsumePrefix(&line, "set-aside before-repair-")) ready.set_aside = absl::StrCat("before-repair-", line);
    if (absl::ConsumePrefix(&line, "pack ") && PackIdOf(line) != 0) ready.packs.emplace_back(line);
  }
  if (lines.empty() || lines[0] != kFirstLine || ready.set_aside.empty() ||
      absl::StrContains(ready.set_aside, "/")) {
    return absl::DataLossError(absl::StrCat(path, " reads otherwise than a repair leaves it: look into it, and "
                                                  "move the directory away to begin anew"));
  }
  return ready;
}

// A damaged count would keep the store from opening; the next writer makes the file from the database's.
absl::Status MoveDamagedCommits(const StorePaths& store, const std::string& aside) {
  if (ReadCommitFile(store.commits).ok() && CheckCommitSlots(store.commits).ok()) return absl::OkStatus();
  return Move(store.commits, absl::StrCat(aside, "/commits"));
}

}  // namespace

std::string ChooseSetAside(const StorePaths& store) {
  for (int n = 1;; ++n) {
    const std::string name = absl::StrCat("before-repair-", n);
    if (!Exists(absl::StrCat(store.root, "/", name))) return name;
  }
}

absl::Status WriteReady(const RepairPaths& repair, const std::string& set_aside,
                        const std::vector<uint32_t>& damaged_packs) {
  std::string text = absl::StrCat(kFirstLine, "\nset-aside ", set_aside, "\n");
  for (const uint32_t pack : damaged_packs) absl::StrAppend(&text, "pack ", PackName(pack), "\n");
  return WriteFileDurably(repair.ready, text, 0600);
}

absl::StatusOr<std::string> FinishSwap(const StorePaths& store) {
  const RepairPaths repair(store);
  if (!Exists(repair.ready)) return "";
  INCR_ASSIGN_OR_RETURN(const Ready ready, ReadReady(repair.ready));
  const std::string aside = absl::StrCat(store.root, "/", ready.set_aside);
  INCR_RETURN_IF_ERROR(MakeDirectory(aside));
  if (Exists(repair.db)) {
    if (Exists(store.db)) INCR_RETURN_IF_ERROR(Move(store.db, absl::StrCat(aside, "/db")));
    INCR_RETURN_IF_ERROR(FaultPoint("store.repair_between"));
    INCR_RETURN_IF_ERROR(Move(repair.db, store.db));
    INCR_RETURN_IF_ERROR(SyncDirectory(store.root));
  }
  INCR_RETURN_IF_ERROR(FaultPoint("store.repair_swapped"));
  if (!ready.packs.empty()) INCR_RETURN_IF_ERROR(MakeDirectory(absl::StrCat(aside, "/packs")));
  for (const std::string& pack : ready.packs) {
    const std::string from = absl::StrCat(store.packs, "/", pack);
    if (Exists(from)) INCR_RETURN_IF_ERROR(Move(from, absl::StrCat(aside, "/packs/", pack)));
  }
  INCR_RETURN_IF_ERROR(FaultPoint("store.repair_packs_moved"));
  INCR_RETURN_IF_ERROR(MoveDamagedCommits(store, aside));
  INCR_RETURN_IF_ERROR(SyncDirectory(store.packs));
  INCR_RETURN_IF_ERROR(SyncDirectory(aside));
  INCR_RETURN_IF_ERROR(SyncDirectory(store.root));
  // The ready file last: until then all of this can be done again.
  std::error_code error;
  std::filesystem::remove_all(repair.salvage, error);
  if (::unlink(repair.ready.c_str()) != 0) return ErrnoStatus(absl::StrCat("unlink(", repair.ready, ")"));
  std::filesystem::remove_all(repair.tmp, error);
  return ready.set_aside;
}

}  // namespace incr
