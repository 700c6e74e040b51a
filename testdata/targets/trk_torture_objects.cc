// Objects that memory is mapped from, and what is done to them behind the mappings.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "testdata/targets/trk_torture.h"

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif

namespace torture {

Objects objects;

namespace {

char gate_prefix[400];

int Sized(int fd) {
  if (fd < 0) std::perror("trk_torture: object"), std::exit(2);
  // Half of it data, a bit of a last page.
  static char data[Objects::kPages / 2 * kPage];
  FillPattern(data, sizeof data, fd);
  if (ftruncate(fd, Objects::kPages * kPage + 100) != 0 ||
      pwrite(fd, data, sizeof data, 0) != static_cast<ssize_t>(sizeof data)) {
    std::perror("trk_torture: object"), std::exit(2);
  }
  return fd;
}
int Create(const std::string& path) {
  return open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

}  // namespace

// One file has a name, the other is deleted: different classes to whoever saves them.
void CreateObjects(const char* file) {
  objects.fds[0] = Sized(open(file, O_RDWR | O_CLOEXEC));
  const std::string shm = "/dev/shm/trk_torture_" + std::to_string(getpid());
  objects.fds[1] = Sized(Create(shm));
  unlink(shm.c_str());
  objects.fds[2] = Sized(static_cast<int>(syscall(SYS_memfd_create, "torture_one", 1)));
  objects.fds[3] = Sized(static_cast<int>(syscall(SYS_memfd_create, "torture_two", 1)));
  const std::string direct = std::string(file) + ".direct";
  close(Sized(Create(direct)));
  objects.direct_fd = open(direct.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  objects.huge_memfd = static_cast<int>(syscall(SYS_memfd_create, "torture_huge", 1 | MFD_HUGETLB));
  if (objects.huge_memfd >= 0 && ftruncate(objects.huge_memfd, 2 * kHugePages * kPage) != 0) {
    close(objects.huge_memfd);
    objects.huge_memfd = -1;
  }
  for (int& segment : objects.segments) {
    segment = shmget(IPC_PRIVATE, Objects::kPages * kPage, IPC_CREAT | 0600);
    // Attached once, so that it lives, and removed, so that it dies with us.
    if (segment >= 0 && shmat(segment, nullptr, 0) != reinterpret_cast<void*>(-1)) {
      shmctl(segment, IPC_RMID, nullptr);
    }
  }
}

// No malloc from here on: children of a fork come here too.
void Gate::SetPath(const char* file) { std::snprintf(gate_prefix, sizeof gate_prefix, "%s", file); }
Gate::Gate(const char* which) {
  char path[420];
  std::snprintf(path, sizeof path, "%s.%s", gate_prefix, which);
  fd_ = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}
Gate::~Gate() { close(fd_); }
bool Gate::Enter() { return flock(fd_, LOCK_SH | LOCK_NB) == 0; }
void Gate::Leave() { flock(fd_, LOCK_UN); }

namespace {

bool AttachSegment(Worker& w) {
  const uint64_t own = w.random.Pick(kArenaPages - Objects::kPages);
  const Piece piece = w.Noted({w.random.OneIn(3) ? At(kCommon + w.random.Pick(kCommonPages - Objects::kPages) * kPage)
                                                 : w.own() + own * kPage,
                               Objects::kPages});
  w.MarkShared(piece, true);
  w.attached = piece.at;
  return shmat(objects.segments[w.random.Pick(2)], piece.at, SHM_REMAP) != reinterpret_cast<void*>(-1);
}
bool DetachSegment(Worker& w) {
  w.Note(w.attached);
  return shmdt(w.attached) == 0;
}

bool PunchHole(Worker& w) {
  const int fd = objects.fds[w.random.Pick(Objects::kCount)];
  const uint64_t at = w.random.Pick(Objects::kPages * kPage), bytes = 1 + w.random.Pick(20 * kPage);
  w.Note(nullptr, fd, at, bytes);
  const int how = w.random.OneIn(4) ? 0x10 /* ZERO_RANGE */ : FALLOC_FL_PUNCH_HOLE;
  return fallocate(fd, how | FALLOC_FL_KEEP_SIZE, at, bytes) == 0;
}
bool Truncate(Worker& w) {
  const int fd = objects.fds[w.random.Pick(Objects::kCount)];
  const uint64_t bytes = w.random.OneIn(2) ? Objects::kPages * kPage + w.random.Pick(kPage)
                                           : w.random.Pick(Objects::kPages * kPage);
  w.Note(nullptr, fd, bytes);
  if (ftruncate(fd, bytes) != 0) return false;
  // Mostly long again at once: content beyond an end is no content.
  return w.random.OneIn(3) || ftruncate(fd, Objects::kPages * kPage + 100) == 0;
}
bool WriteObject(Worker& w) {
  const int fd = objects.fds[w.random.Pick(Objects::kCount)];
  char data[3000];
  FillPattern(data, sizeof data, w.random());
  const uint64_t at = w.random.Pick(Objects::kPages * kPage - sizeof data);
  w.Note(nullptr, fd, at);
  return pwrite(fd, data, 1 + w.random.Pick(sizeof data), at) > 0;
}

// Pages of hugetlbfs have rules of their own everywhere in the kernel.
bool MapHugeTlb(Worker& w) {
  const bool shared = w.random.OneIn(3);
  w.Note(At(kHugeTlb), shared);
  const int flags = shared ? MAP_SHARED : MAP_PRIVATE | (w.random.OneIn(2) ? MAP_ANONYMOUS | MAP_HUGETLB : 0);
  const int fd = flags & MAP_ANONYMOUS ? -1 : objects.huge_memfd;
  return mmap(At(kHugeTlb), 2 * kHugePages * kPage, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) !=
         MAP_FAILED;
}
bool UseHugeTlb(Worker& w) {
  char* at = At(kHugeTlb) + w.random.Pick(2 * kHugePages) * kPage;
  w.Note(at);
  switch (w.random.Pick(12)) {
    case 0: return munmap(At(kHugeTlb), 2 * kHugePages * kPage) == 0;
    case 1: return madvise(At(kHugeTlb), kHugePages * kPage, MADV_DONTNEED) == 0;
    case 2: return mprotect(At(kHugeTlb), kHugePages * kPage, w.Protection()) == 0;
    case 3: return madvise(At(kHugeTlb) + kHugePages * kPage, kHugePages * kPage, MADV_REMOVE) == 0;
    default: FillPattern(at, 1 + w.random.Pick(kPage), w.random());
  }
  return true;
}

}  // namespace

void AddObjects(std::vector<Operation>* all) {
  all->insert(all->end(), {{"attach_segment", 2, AttachSegment},
                           {"detach_segment", 1, DetachSegment},
                           {"punch_hole", 3, PunchHole},
                           {"truncate", 3, Truncate},
                           {"write_object", 4, WriteObject},
                           {"map_hugetlb", 1, MapHugeTlb},
                           {"use_hugetlb", 4, UseHugeTlb}});
}

}  // namespace torture
