// trk_torture.h — the parts of trk_torture, a target that does everything to its memory at random.
//
//   trk_torture.cc            main, threads, the commands of the driver, the table of operations
//   trk_torture_stores.cc     what the program itself writes: stores, stacks, brk
//   trk_torture_mappings.cc   mmap, munmap, mremap, mprotect
//   trk_torture_pages.cc      madvise, mlock, migration: what moves pages about
//   trk_torture_kernel.cc     what the kernel writes for the program: read, io_uring, AIO, signals
//   trk_torture_objects.cc    files, memfds, SysV segments, hugetlbfs: mapped, punched, truncated
//   trk_torture_processes.cc  fork, vfork, threads that come and go, an own userfaultfd
//   trk_torture_helper.cc     the process that writes to all this from outside
//
// What replays: operation number n of thread t under a seed is the same call with the same
// arguments every time; each has random numbers of its own, and all arenas are at fixed addresses.
// What the call meets (other threads, the kernel's own timing) does not replay with threads; in
// steps, with one worker, it does.
#ifndef INCR_CKPT_TESTDATA_TARGETS_TRK_TORTURE_H_
#define INCR_CKPT_TESTDATA_TARGETS_TRK_TORTURE_H_

#include <csetjmp>
#include <cstdint>
#include <cstddef>
#include <vector>

class IoRing;
class AioQueue;

namespace torture {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePages = 512;  // pages in a huge page
constexpr int kMaxThreads = 8;

// Addresses. A worker's own part of the address space, and one that all of them fight over.
constexpr uint64_t kOwn = 0x200000000000;
constexpr uint64_t kOwnStride = 1ull << 32;
constexpr uint64_t kArenaPages = 3 * kHugePages;
constexpr uint64_t kAsideOffset = 64ull << 20;   // where mappings are moved to and back from
constexpr uint64_t kGrowOffset = 128ull << 20;   // a mapping that grows down
constexpr uint64_t kGrowPages = 600;
constexpr uint64_t kSignalOffset = 192ull << 20;  // nobody else writes there: it holds registers
constexpr uint64_t kSignalPages = 16;
constexpr uint64_t kReserveOffset = 1ull << 30;  // a large reservation
constexpr uint64_t kCommon = 0x300000000000;
constexpr uint64_t kCommonPages = 768;
constexpr uint64_t kHugeTlb = 0x310000000000;  // two pages of hugetlbfs
constexpr uint64_t kIsland = 0x320000000000;   // served by the program's own userfaultfd
constexpr uint64_t kIslandPages = 48;

inline char* At(uint64_t address) { return reinterpret_cast<char*>(address); }

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t operator()() {  // splitmix64
    uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  uint64_t Pick(uint64_t n) { return (*this)() % n; }
  bool OneIn(uint64_t n) { return Pick(n) == 0; }

 private:
  uint64_t state_;
};

// Shared objects, all created before anything forks.
struct Objects {
  static constexpr int kCount = 4;  // a file on disk, a file on tmpfs, two memfds
  static constexpr uint64_t kPages = 96;
  int fds[kCount];
  int direct_fd = -1;  // a file read with O_DIRECT, or -1
  int huge_memfd = -1;
  int segments[2];     // SysV shared memory, kPages each
};
extern Objects objects;
void CreateObjects(const char* file);

// Closed by the driver while memory must stand still: each writer from outside passes through. "rounds":
// also while pre-copy rounds run, for writes that do not go through the page tables.
class Gate {
 public:
  static void SetPath(const char* file);
  explicit Gate(const char* which);  // Opens its own description: not to be shared by a fork.
  ~Gate();
  bool Enter();  // false: closed
  void Leave();

 private:
  int fd_;
};

struct Piece {
  char* at = nullptr;
  uint64_t pages = 0;
  uint64_t bytes() const { return pages * kPage; }
};

class Worker {
 public:
  Worker(int index, uint64_t seed);

  // A random part of the own arena or of the common one.
  Piece Any(uint64_t most = 600);
  Piece Own(uint64_t most = 600);
  // Where a piece of that size may go in the arena that `piece` lies in.
  char* PlaceFor(const Piece& piece);
  int Protection();
  char* own() const { return At(kOwn + index * kOwnStride); }
  // For the trail: what the operation was given.
  void Note(const void* at, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0);
  Piece Noted(const Piece& piece, uint64_t a = 0, uint64_t b = 0);
  // Whether pages of the own arena may be shared: a guard over shared memory hides content from us.
  void MarkShared(const Piece& piece, bool shared);
  bool MayBeShared(const Piece& piece) const;

  const int index;
  const uint64_t seed;
  Random random{0};
  uint64_t done = 0;  // operations
  bool naps = true;   // false in steps: nobody else would use the time

  // Channels whose bytes the kernel puts into memory.
  int pipe_in = -1, pipe_out = -1, socket_in = -1, socket_out = -1, fed = -1, urandom = -1;
  Gate rounds_gate{"rounds"}, freeze_gate{"freeze"};
  IoRing* ring = nullptr;
  AioQueue* aio = nullptr;
  void* attached = nullptr;  // where shmat put a segment last
  // A mapping that was moved aside, to come back.
  Piece aside, aside_home;
  pid_t children[2] = {0, 0};

 private:
  bool shared_[kArenaPages] = {};
};

// Returns whether it worked; most operations also fail now and then, and a fault ends one too.
using Run = bool (*)(Worker&);
struct Operation {
  const char* name;
  int weight;
  Run run;
};
void AddStores(std::vector<Operation>* all);
void AddMappings(std::vector<Operation>* all);
void AddPageStates(std::vector<Operation>* all);
void AddKernelWrites(std::vector<Operation>* all);
void AddObjects(std::vector<Operation>* all);
void AddProcesses(std::vector<Operation>* all);
// Only with an own userfaultfd; starts the thread that serves it.
void AddUserfaultfd(std::vector<Operation>* all);

void OpenChannels(Worker& worker, int fed);

// Faults end the operation, or the process where it is a child.
extern thread_local sigjmp_buf fault_exit;
enum class OnFault { kDie, kLeaveOperation, kExitChild };
extern thread_local OnFault on_fault;

extern int control_socket;

// The process that writes from outside. Forks it; the answer is the socket that steers it:
// 'r' run, 'p' pause, 's' one step; each is answered with the same letter.
int StartHelper(uint64_t seed, int feeds, const int* feed_fds);

void FillPattern(char* to, uint64_t bytes, uint64_t seed);

}  // namespace torture

#endif  // INCR_CKPT_TESTDATA_TARGETS_TRK_TORTURE_H_
