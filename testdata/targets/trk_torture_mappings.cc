// mmap over mmap, munmap, mremap in all its forms, mprotect.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "testdata/targets/trk_torture.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

namespace torture {
namespace {

bool Map(Worker& w, const Piece& piece, int flags, int fd, uint64_t offset, bool shared) {
  w.Noted(piece, flags, offset);
  if (shared) w.MarkShared(piece, true);  // before: it may fail half-way
  const bool ok = mmap(piece.at, piece.bytes(), w.Protection(), flags | MAP_FIXED, fd,
                       offset * kPage) != MAP_FAILED;
  if (ok && !shared) w.MarkShared(piece, false);
  return ok;
}

bool MapAnonymous(Worker& w) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (w.random.OneIn(8)) flags |= MAP_POPULATE;
  if (w.random.OneIn(8)) flags |= MAP_NORESERVE;
  if (w.random.OneIn(16)) flags |= MAP_LOCKED;
  return Map(w, w.Any(), flags, -1, 0, false);
}
bool MapSharedAnonymous(Worker& w) {
  return Map(w, w.Any(60), MAP_SHARED | MAP_ANONYMOUS, -1, 0, true);
}
bool MapZeroDevice(Worker& w) {
  static const int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
  return Map(w, w.Any(60), MAP_PRIVATE, fd, 0, false);
}
// Of any object, perhaps beyond its end.
bool MapPrivateObject(Worker& w) {
  const int fd = objects.fds[w.random.Pick(Objects::kCount)];
  return Map(w, w.Any(60), MAP_PRIVATE, fd, w.random.Pick(Objects::kPages), false);
}
bool MapSharedObject(Worker& w) {
  const int fd = objects.fds[w.random.Pick(Objects::kCount)];
  return Map(w, w.Any(60), MAP_SHARED, fd, w.random.Pick(Objects::kPages), true);
}

bool Unmap(Worker& w) {
  const Piece piece = w.Noted(w.Any(w.random.OneIn(4) ? 600 : 20));
  return munmap(piece.at, piece.bytes()) == 0;
}

bool Protect(Worker& w) {
  const Piece piece = w.Noted(w.Any());
  return mprotect(piece.at, piece.bytes(), w.Protection()) == 0;
}
bool MakeWritable(Worker& w) {
  const Piece piece = w.Noted(w.Any());
  return mprotect(piece.at, piece.bytes(), PROT_READ | PROT_WRITE) == 0;
}

bool Move(Worker& w, int flags) {
  const Piece from = w.Any();
  char* to = w.PlaceFor(from);
  w.Note(from.at, from.pages, reinterpret_cast<uint64_t>(to), flags);
  if (from.at < to + from.bytes() && to < from.at + from.bytes()) return false;
  w.MarkShared({to, from.pages}, true);  // perhaps
  return mremap(from.at, from.bytes(), from.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED | flags, to) !=
         MAP_FAILED;
}
bool MoveOver(Worker& w) { return Move(w, 0); }
bool MoveAndLeave(Worker& w) { return Move(w, MREMAP_DONTUNMAP); }

// Back in its place it merges with its neighbours, which do not come out of that unharmed.
bool MoveAsideAndBack(Worker& w) {
  if (w.aside.pages != 0) {
    const Piece from = w.aside;
    w.aside = {};
    w.Noted(from);
    w.MarkShared(w.aside_home, true);
    return mremap(from.at, from.bytes(), from.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED,
                  w.aside_home.at) != MAP_FAILED;
  }
  const Piece from = w.Noted(w.Own());
  char* to = w.own() + kAsideOffset + w.random.Pick(4) * kHugePages * kPage;
  if (mremap(from.at, from.bytes(), from.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
    return false;
  }
  w.aside = {to, from.pages};
  w.aside_home = from;
  return true;
}

bool Resize(Worker& w) {
  const Piece piece = w.Any(40);
  const uint64_t pages = 1 + w.random.Pick(60);
  w.Noted(piece, pages);
  w.MarkShared({piece.at, 60}, true);
  return mremap(piece.at, piece.bytes(), pages * kPage, 0) != MAP_FAILED;
}
bool MoveAndResize(Worker& w) {
  const Piece from = w.Any(40);
  const Piece to{w.PlaceFor({from.at, 80}), 1 + w.random.Pick(80)};
  w.Noted(from, reinterpret_cast<uint64_t>(to.at), to.pages);
  w.MarkShared(to, true);
  return mremap(from.at, from.bytes(), to.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, to.at) != MAP_FAILED;
}
// An old size of 0: the same shared memory a second time.
bool Duplicate(Worker& w) {
  const Piece from = w.Any(20);
  char* to = w.PlaceFor(from);
  w.Noted(from, reinterpret_cast<uint64_t>(to));
  w.MarkShared({to, from.pages}, true);
  return mremap(from.at, 0, from.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED;
}
// Pages of a shared mapping in another order.
bool Rearrange(Worker& w) {
  const Piece piece{w.own() + w.random.Pick(kArenaPages - 20) * kPage, 20};
  return Map(w, piece, MAP_SHARED | MAP_ANONYMOUS, -1, 0, true) &&
         syscall(SYS_remap_file_pages, piece.at, 8 * kPage, 0, 1 + w.random.Pick(12), 0) == 0;
}

bool GrowDown(Worker& w) {
  char* low = w.own() + kGrowOffset;
  char* high = low + kGrowPages * kPage;
  if (w.random.OneIn(4)) {
    munmap(low, kGrowPages * kPage);
    return mmap(high - 4 * kPage, 4 * kPage, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  const uint64_t depth = 1 + w.random.Pick(kGrowPages - 300);
  w.Note(high, depth);
  for (uint64_t i = 1; i <= depth; i += 1 + w.random.Pick(2)) {
    *const_cast<volatile char*>(high - i * kPage + w.random.Pick(kPage)) = static_cast<char>(i);
  }
  return true;
}

// Much address space, little memory.
bool Reserve(Worker& w) {
  constexpr uint64_t kBytes = 128ull << 20;
  char* at = w.own() + kReserveOffset;
  if (w.random.OneIn(6)) {
    return mmap(at, kBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  at += w.random.Pick(kBytes / kPage) * kPage;
  w.Note(at);
  if (w.random.OneIn(4)) return madvise(at, kPage, MADV_DONTNEED) == 0;
  *const_cast<volatile char*>(at) = static_cast<char>(w.random());
  return true;
}

bool Rename(Worker& w) {
  static const char* const kNames[] = {"one", "two", nullptr};
  const Piece piece = w.Noted(w.Any(40));
  return prctl(0x53564d41 /* PR_SET_VMA */, 0, piece.at, piece.bytes(), kNames[w.random.Pick(3)]) == 0;
}

}  // namespace

void AddMappings(std::vector<Operation>* all) {
  all->insert(all->end(), {{"map_anonymous", 10, MapAnonymous},
                           {"map_shared_anonymous", 3, MapSharedAnonymous},
                           {"map_zero_device", 1, MapZeroDevice},
                           {"map_private_object", 6, MapPrivateObject},
                           {"map_shared_object", 5, MapSharedObject},
                           {"unmap", 3, Unmap},
                           {"protect", 4, Protect},
                           {"make_writable", 6, MakeWritable},
                           {"move_over", 3, MoveOver},
                           {"move_and_leave", 3, MoveAndLeave},
                           {"move_aside_and_back", 5, MoveAsideAndBack},
                           {"move_and_resize", 2, MoveAndResize},
                           {"resize", 4, Resize},
                           {"duplicate", 1, Duplicate},
                           {"rearrange", 1, Rearrange},
                           {"grow_down", 2, GrowDown},
                           {"reserve", 3, Reserve},
                           {"rename", 2, Rename}});
}

}  // namespace torture
