// madvise, mlock, memory policy: what moves pages about without writing to them, or drops them.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <iterator>

#include "testdata/targets/trk_torture.h"

namespace torture {
namespace {

// Numbers, since Debian 12's headers lack some.
enum Advice {
  kDontNeed = 4, kFree = 8, kRemove = 9, kDontFork = 10, kDoFork = 11, kMergeable = 12,
  kUnmergeable = 13, kHugePage = 14, kNoHugePage = 15, kDontDump = 16, kDoDump = 17,
  kWipeOnFork = 18, kKeepOnFork = 19, kCold = 20, kPageOut = 21, kPopulateRead = 22,
  kPopulateWrite = 23, kDontNeedLocked = 24, kCollapse = 25, kGuardInstall = 102, kGuardRemove = 103,
};

bool AdviseOn(Worker& w, const Piece& piece, int advice) {
  w.Noted(piece, advice);
  return madvise(piece.at, piece.bytes(), advice) == 0;
}
template <int advice>
bool Advise(Worker& w) {
  return AdviseOn(w, w.Any(), advice);
}
// A huge page's worth, at its place.
template <int advice>
bool AdviseWhole(Worker& w) {
  return AdviseOn(w, {w.own() + w.random.Pick(3) * kHugePages * kPage, kHugePages}, advice);
}

// On and off.
template <int on, int off>
bool Toggle(Worker& w) {
  return AdviseOn(w, w.Any(), w.random.OneIn(3) ? off : on);
}

// A huge page filled where there was nothing, so that it comes as one.
bool FreshHugePage(Worker& w) {
  const Piece piece{w.own() + w.random.Pick(3) * kHugePages * kPage, kHugePages};
  w.Noted(piece);
  if (mmap(piece.at, piece.bytes(), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return false;
  }
  w.MarkShared(piece, false);
  if (madvise(piece.at, piece.bytes(), kHugePage) != 0) return false;
  FillPattern(piece.at + w.random.Pick(kHugePages) * kPage, 100, w.random());
  return true;
}

// Not on shared memory, whose content a guard hides from whoever reads through the process.
bool InstallGuard(Worker& w) {
  const Piece piece = w.Own(20);
  // Over a tracked file it ends at the next freeze (uffd_registry.h), which in steps does not come.
  if (!w.naps && mmap(piece.at, piece.bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return false;
  }
  if (w.naps && w.MayBeShared(piece)) return false;
  return AdviseOn(w, piece, kGuardInstall);
}
bool RemoveGuard(Worker& w) { return AdviseOn(w, w.Own(), kGuardRemove); }

bool Lock(Worker& w) {
  const Piece piece = w.Noted(w.Any(60));
  switch (w.random.Pick(3)) {
    case 0: return mlock(piece.at, piece.bytes()) == 0;
    case 1: return mlock2(piece.at, piece.bytes(), MLOCK_ONFAULT) == 0;
    default: return munlock(piece.at, piece.bytes()) == 0;
  }
}
bool UnlockAll(Worker& w) { return munlockall() == 0; }

bool Bind(Worker& w) {
  const Piece piece = w.Noted(w.Any(60));
  const unsigned long nodes = 1;
  // MPOL_DEFAULT or MPOL_BIND, with MPOL_MF_MOVE.
  return w.random.OneIn(3) ? syscall(SYS_mbind, piece.at, piece.bytes(), 0, nullptr, 0, 0) == 0
                           : syscall(SYS_mbind, piece.at, piece.bytes(), 2, &nodes, 64, 2) == 0;
}
bool MovePages(Worker& w) {
  const Piece piece = w.Noted(w.Any(16));
  void* pages[16];
  int nodes[16] = {}, status[16];
  for (uint64_t i = 0; i < piece.pages; ++i) pages[i] = piece.at + i * kPage;
  return syscall(SYS_move_pages, 0, piece.pages, pages, nodes, status, 2 /* MPOL_MF_MOVE */) == 0;
}
bool MigratePages(Worker& w) {
  const unsigned long nodes = 1;
  return syscall(SYS_migrate_pages, 0, 64, &nodes, &nodes) == 0;
}

bool Sync(Worker& w) {
  const Piece piece = w.Noted(w.Any());
  return msync(piece.at, piece.bytes(), MS_ASYNC) == 0;
}

}  // namespace

void AddPageStates(std::vector<Operation>* all) {
  all->insert(all->end(), {{"dontneed", 8, Advise<kDontNeed>},
                           {"dontneed_whole", 2, AdviseWhole<kDontNeed>},
                           {"dontneed_locked", 1, Advise<kDontNeedLocked>},
                           {"free", 3, Advise<kFree>},
                           {"remove", 3, Advise<kRemove>},
                           {"cold", 2, Advise<kCold>},
                           {"pageout", 6, Advise<kPageOut>},
                           {"populate_read", 2, Advise<kPopulateRead>},
                           {"populate_write", 2, Advise<kPopulateWrite>},
                           {"collapse", 2, AdviseWhole<kCollapse>},
                           {"hugepage", 2, Toggle<kHugePage, kNoHugePage>},
                           {"fresh_huge_page", 2, FreshHugePage},
                           {"mergeable", 3, Toggle<kMergeable, kUnmergeable>},
                           {"dontfork", 1, Toggle<kDontFork, kDoFork>},
                           {"wipeonfork", 2, Toggle<kWipeOnFork, kKeepOnFork>},
                           {"dontdump", 2, Toggle<kDontDump, kDoDump>},
                           {"guard_install", 3, InstallGuard},
                           {"guard_remove", 2, RemoveGuard},
                           {"lock", 3, Lock},
                           {"unlock_all", 1, UnlockAll},
                           {"bind", 1, Bind},
                           {"move_pages", 1, MovePages},
                           {"migrate_pages", 1, MigratePages},
                           {"sync", 1, Sync}});
}

}  // namespace torture
